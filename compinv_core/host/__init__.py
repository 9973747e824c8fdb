"""What the core needs to know about ComfyUI: the only place that imports `comfy`."""
