"""Prompts: templates, the vocabulary, and where subjects are in an encoded prompt."""
