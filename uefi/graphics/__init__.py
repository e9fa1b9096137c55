"""The display: a framebuffer in guest memory, block transfers, screenshots."""
