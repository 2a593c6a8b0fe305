"""Networks: arrays in, arrays out, independent of diffusion."""
