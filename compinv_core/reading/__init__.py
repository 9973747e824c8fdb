"""How a prompt is read: contexts one behind the other, and rules that say which cell reads which of them, and how loud."""
