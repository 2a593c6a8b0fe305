"""The sizes of the FID Inception's convolutions: (height, width, inputs, outputs)."""

Shape = tuple[int, int, int, int]
Block = dict[str, Shape]


def layer_shapes() -> Block:
    """Returns the shape of every convolution, by PyTorch's names."""
    shapes = {
        "Conv2d_1a_3x3": (3, 3, 3, 32),
        "Conv2d_2a_3x3": (3, 3, 32, 32),
        "Conv2d_2b_3x3": (3, 3, 32, 64),
        "Conv2d_3b_1x1": (1, 1, 64, 80),
        "Conv2d_4a_3x3": (3, 3, 80, 192),
    }
    blocks = {
        "Mixed_5b": _block_a(192, 32),
        "Mixed_5c": _block_a(256, 64),
        "Mixed_5d": _block_a(288, 64),
        "Mixed_6a": _block_b(288),
        "Mixed_6b": _block_c(768, 128),
        "Mixed_6c": _block_c(768, 160),
        "Mixed_6d": _block_c(768, 160),
        "Mixed_6e": _block_c(768, 192),
        "Mixed_7a": _block_d(768),
        "Mixed_7b": _block_e(1280),
        "Mixed_7c": _block_e(2048),
    }
    for name, block in blocks.items():
        shapes |= {f"{name}.{layer}": shape for layer, shape in block.items()}
    return shapes


def _block_a(inputs: int, pooled: int) -> Block:
    return {
        "branch1x1": (1, 1, inputs, 64),
        "branch5x5_1": (1, 1, inputs, 48),
        "branch5x5_2": (5, 5, 48, 64),
        "branch3x3dbl_1": (1, 1, inputs, 64),
        "branch3x3dbl_2": (3, 3, 64, 96),
        "branch3x3dbl_3": (3, 3, 96, 96),
        "branch_pool": (1, 1, inputs, pooled),
    }


def _block_b(inputs: int) -> Block:
    return {
        "branch3x3": (3, 3, inputs, 384),
        "branch3x3dbl_1": (1, 1, inputs, 64),
        "branch3x3dbl_2": (3, 3, 64, 96),
        "branch3x3dbl_3": (3, 3, 96, 96),
    }


def _block_c(inputs: int, inner: int) -> Block:
    return {
        "branch1x1": (1, 1, inputs, 192),
        "branch7x7_1": (1, 1, inputs, inner),
        "branch7x7_2": (1, 7, inner, inner),
        "branch7x7_3": (7, 1, inner, 192),
        "branch7x7dbl_1": (1, 1, inputs, inner),
        "branch7x7dbl_2": (7, 1, inner, inner),
        "branch7x7dbl_3": (1, 7, inner, inner),
        "branch7x7dbl_4": (7, 1, inner, inner),
        "branch7x7dbl_5": (1, 7, inner, 192),
        "branch_pool": (1, 1, inputs, 192),
    }


def _block_d(inputs: int) -> Block:
    return {
        "branch3x3_1": (1, 1, inputs, 192),
        "branch3x3_2": (3, 3, 192, 320),
        "branch7x7x3_1": (1, 1, inputs, 192),
        "branch7x7x3_2": (1, 7, 192, 192),
        "branch7x7x3_3": (7, 1, 192, 192),
        "branch7x7x3_4": (3, 3, 192, 192),
    }


def _block_e(inputs: int) -> Block:
    return {
        "branch1x1": (1, 1, inputs, 320),
        "branch3x3_1": (1, 1, inputs, 384),
        "branch3x3_2a": (1, 3, 384, 384),
        "branch3x3_2b": (3, 1, 384, 384),
        "branch3x3dbl_1": (1, 1, inputs, 448),
        "branch3x3dbl_2": (3, 3, 448, 384),
        "branch3x3dbl_3a": (1, 3, 384, 384),
        "branch3x3dbl_3b": (3, 1, 384, 384),
        "branch_pool": (1, 1, inputs, 192),
    }
