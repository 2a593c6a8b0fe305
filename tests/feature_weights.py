"""Random weights of the FID's Inception, the same wherever numpy makes them."""

import io
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from tests.inception_shapes import layer_shapes


def inception_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """PyTorch's state dictionary, of a scale that neither grows nor dies on its way."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, (height, width, inputs, outputs) in layer_shapes().items():
        shape = (outputs, inputs, height, width)
        scale = np.float32(np.sqrt(2 / (height * width * inputs)))
        arrays[f"{name}.conv.weight"] = rng.standard_normal(shape, np.float32) * scale
        for part, low, high in (
            ("weight", 0.8, 1.2),
            ("bias", -0.1, 0.1),
            ("running_mean", -0.1, 0.1),
            ("running_var", 0.8, 1.2),
        ):
            values = rng.uniform(low, high, outputs).astype(np.float32)
            arrays[f"{name}.bn.{part}"] = values
    fc = rng.standard_normal((1008, 2048), np.float32) * np.float32(0.05)
    arrays["fc.weight"] = fc
    arrays["fc.bias"] = rng.uniform(-1, 1, 1008).astype(np.float32)
    return arrays


def torch_file(arrays: dict[str, np.ndarray]) -> bytes:
    """A state dictionary of float32 as torch.save writes it."""

    def named(name: str, value: object) -> object:
        value.__module__, value.__qualname__ = name.rsplit(".", 1)
        modules = {value.__module__: types.ModuleType(value.__module__)}
        setattr(modules[value.__module__], value.__qualname__, value)
        patch.setitem(sys.modules, value.__module__, modules[value.__module__])
        return value

    class Storage(tuple):
        pass

    class Tensor(tuple):
        def __reduce__(self):
            key, array = self
            strides = tuple(n // array.itemsize for n in array.strides)
            storage = Storage(("storage", kind, key, "cpu", array.size))
            return rebuild, (storage, 0, array.shape, strides, False, None)

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return tuple(obj) if isinstance(obj, Storage) else None

    file, text = io.BytesIO(), io.BytesIO()
    with pytest.MonkeyPatch.context() as patch, zipfile.ZipFile(file, "w") as archive:
        kind = named("torch.FloatStorage", type("FloatStorage", (), {}))
        rebuild = named("torch._utils._rebuild_tensor_v2", lambda *_: None)
        pairs = enumerate(arrays.items())
        state = {name: Tensor((str(i), array)) for i, (name, array) in pairs}
        Pickler(text, 2).dump(state)
        archive.writestr("weights/data.pkl", text.getvalue())
        for key, array in state.values():
            archive.writestr(f"weights/data/{key}", np.ascontiguousarray(array).data)
    return file.getvalue()


def images(num: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colour images with some noise, uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (num, 4, 4, 3))
    rows, columns = (np.linspace(0, 3, n) for n in (height, width))
    smooth = coarse[:, np.rint(rows).astype(int)][:, :, np.rint(columns).astype(int)]
    noise = rng.normal(0, 20, (num, height, width, 3))
    return np.clip(np.rint(smooth + noise), 0, 255).astype(np.uint8)


def two_sizes() -> dict[str, np.ndarray]:
    """Two small images, which are enlarged, and one that is made smaller."""
    return {"small": images(2, 32, 32), "large": images(1, 320, 310, seed=1)}
