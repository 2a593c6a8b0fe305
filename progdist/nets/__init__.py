"""Networks: arrays in, arrays out; they know nothing of diffusion."""
