"""The method: plain torch on tensors and small frozen dataclasses. Only `compinv_core.host` knows ComfyUI."""
