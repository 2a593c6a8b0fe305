"""Files that are damaged, or would harm who reads them, and what is said to them.

Each maker fills a path, whose suffix chooses the reader. `FACTS` are all that a valid
file of its suffix needs.
"""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import flax.serialization
import msgpack
import numpy as np

from tests import torch_files
from tests.guided_parameters import parameters

GOLDEN = np.load(Path(__file__).parent / "golden" / "guided.npz")
ARRAYS = parameters(json.loads(str(GOLDEN["legacy/shapes"])))
_OF_TORCH = {
    **{"betas": "linear", "num_heads": 4, "attention_order": "legacy"},
    **{"image_size": 8, "output": "eps"},
}
FACTS = {
    **{".pt": _OF_TORCH, ".pth": _OF_TORCH, ".safetensors": {}},
    "": {"image_size": 8, "output": "eps"},
}
FIRST, BIAS = "input_blocks.0.0.weight", "time_embed.0.bias"
MADE = "made-by-a-file"
Make = Callable[[Path], object]


class Mischief:
    """Makes a directory where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (MADE,)


def torch_file(**changes: np.ndarray | None) -> Make:
    """A valid file but for some parameters, None for none; __ in names is a dot."""
    named = {name.replace("__", "."): array for name, array in changes.items()}
    arrays = {n: a for n, a in (ARRAYS | named).items() if a is not None}
    return lambda path: torch_files.write(path, arrays)


def torch_zip(pickled: bytes, *members: tuple[str, bytes]) -> Make:
    """A zip with this pickle."""
    content = torch_files.archive([("archive/data.pkl", pickled), *members])
    return lambda path: path.write_bytes(content)


def one_tensor(shape, strides, offset=0, count=4, name=BIAS, num_bytes=16) -> Make:
    """A zip of one tensor, a view of a storage of 4 floats."""
    view = torch_files.tensor("0", "FloatStorage", count, shape, strides, offset)
    pickled = torch_files.dictionary({name: view})
    return torch_zip(pickled, ("archive/data/0", bytes(num_bytes)))


def cut(path: Path) -> None:
    whole = torch_files.state_dict(ARRAYS)
    path.write_bytes(whole[: len(whole) // 2])


def lying_sizes(path: Path) -> None:
    """The directory of the zip says that a member of 16 bytes has 4 GB."""
    one_tensor((4,), (1,))(path)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 20 : place + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    path.write_bytes(bytes(content))


def bomb(path: Path) -> None:
    """A storage of 1 GiB of zeros, which compress to 1 MiB."""
    view = torch_files.tensor("0", "FloatStorage", 2**28, (2**28,), (1,))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        pickled = torch_files.dictionary({BIAS: view})
        file.writestr("archive/data.pkl", pickled, zipfile.ZIP_STORED)
        with file.open("archive/data/0", "w") as member:
            for _ in range(64):
                member.write(bytes(2**24))


def shared(path: Path) -> None:
    """A thousand tensors on one storage of 4 MiB."""
    view = torch_files.tensor("0", "FloatStorage", 2**20, (2**20,), (1,))
    names = [f"input_blocks.{n}.0.weight" for n in range(1000)]
    pickled = torch_files.dictionary(dict.fromkeys(names, view))
    torch_zip(pickled, ("archive/data/0", bytes(2**22)))(path)


def unknown_global(module: str, name: str) -> bytes:
    """A pickle that asks for a name, which may hold anything."""
    words = b"".join(
        b"X" + struct.pack("<I", len(word)) + word
        for word in (module.encode(), name.encode())
    )
    return b"\x80\x04" + words + b"\x93."


def flax_file(params: object, **fields: object) -> Make:
    """A train state."""
    state = {"ema_params": params} | fields
    return lambda path: path.write_bytes(flax.serialization.msgpack_serialize(state))


def packed(content: bytes) -> Make:
    """A msgpack map whose ema_params is this."""
    return lambda path: path.write_bytes(b"\x81\xaaema_params" + content)


def extension(code: int, content: bytes) -> Make:
    """A msgpack map whose ema_params hold one extension; 1 is an array of flax."""
    return packed(msgpack.packb({"a": msgpack.ExtType(code, content)}))


def safe_file(header: bytes, length: int | None = None, data: bytes = b"") -> Make:
    """A safetensors file."""
    size = struct.pack("<Q", len(header) if length is None else length)
    return lambda path: path.write_bytes(size + header + data)


def folder(config: bytes, weights: Make = lambda path: None) -> Make:
    """A model folder of diffusers."""

    def make(path: Path) -> None:
        path.mkdir()
        (path / "config.json").write_bytes(config)
        weights(path / "diffusion_pytorch_model.safetensors")

    return make


def config(**changes: object) -> bytes:
    """A configuration of UNet2DModel, a small one but for the changes."""
    fields = {
        **{"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 3},
        **{"out_channels": 3, "block_out_channels": [32], "layers_per_block": 1},
        **{"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]},
    }
    return json.dumps(fields | changes).encode()


CONV = {"conv_in": {"kernel": np.zeros((3, 3, 3, 32), np.float32)}}
TENSOR = b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,%s]}}'
# By name: the suffix of the file, its maker, and a part of the line.
CASES: dict[str, tuple[str, Make, str]] = {
    "a zip that would make a directory": (
        *(".pt", torch_zip(pickle.dumps({"a": Mischief()}))),
        "posix.mkdir, which is not allowed",
    ),
    "a pickle that would make a directory": (
        *(".pth", lambda path: path.write_bytes(pickle.dumps({"a": Mischief()}))),
        "posix.mkdir, which is not allowed",
    ),
    "an unknown global": (
        *(".pt", torch_zip(b"\x80\x02cbuiltins\neval\n.")),
        "builtins.eval, which is not allowed",
    ),
    "a global of two lines": (
        *(".pt", torch_zip(unknown_global("os\nb", "x\x1b[2J\r\nsystem"))),
        "which is not allowed",
    ),
    "a part of an allowed global": (
        *(".pt", torch_zip(unknown_global("collections", "OrderedDict.fromkeys"))),
        "OrderedDict.fromkeys, which is not allowed",
    ),
    "lying sizes": (".pt", lying_sizes, "its members are larger than the file"),
    "a compressed member": (".pt", bomb, "data/0' is compressed"),
    "members outside": (
        ".pt",
        torch_zip(torch_files.dictionary({}), ("../../evil", b"x")),
        "evil' is outside of it",
    ),
    "an absolute member": (
        ".pt",
        torch_zip(torch_files.dictionary({}), ("/etc/evil", b"x")),
        "evil' is outside of it",
    ),
    "half a file": (".pt", cut, "not a file of weights"),
    "an empty file": (".pt", Path.touch, "not a file of weights"),
    "text": (".pt", lambda path: path.write_text("hello"), "not a file of weights"),
    "an empty zip": (
        *(".pt", lambda path: path.write_bytes(torch_files.archive([]))),
        "not a file of weights",
    ),
    "no dictionary": (".pt", torch_zip(b"\x80\x02K\x01."), "no dictionary of tensors"),
    "no tensors": (".pt", torch_zip(torch_files.dictionary({})), "lacks input_blocks"),
    "deep nesting": (
        *(".pt", torch_zip(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")),
        "no dictionary of tensors",
    ),
    "a memo of 2^31 places": (
        *(".pt", torch_zip(b"\x80\x02}r\xff\xff\xff\x7f.")),
        "it remembers object 2147483647",
    ),
    "a literal of 2^40 bytes": (
        *(".pt", torch_zip(b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.")),
        "not a file of weights",
    ),
    "negative strides": (".pt", one_tensor((2,), (-1,), 3), "beyond its storage"),
    "a huge stride": (".pt", one_tensor((2,), (2**62,)), "beyond its storage"),
    "a huge offset": (".pt", one_tensor((2,), (1,), 2**63), "beyond its storage"),
    "a product that overflows": (
        *(".pt", one_tensor((2**33, 2**33), (0, 0))),
        "beyond its storage",
    ),
    "a stride of zero": (".pt", one_tensor((2**40,), (0,)), "beyond its storage"),
    "a lying count": (
        *(".pt", one_tensor((4,), (1,), count=2**40)),
        "larger than its member",
    ),
    "a negative count": (".pt", one_tensor((4,), (1,), count=-1), "larger than its"),
    "a short storage": (".pt", one_tensor((4,), (1,), num_bytes=8), "larger than its"),
    "a storage shared by a thousand": (".pt", shared, "larger than the file"),
    "a name of two lines": (
        *(".pt", torch_file(**{"x\ny\udcff": np.zeros(1, np.float32)})),
        r"x\ny\udcff is no parameter of guided-diffusion",
    ),
    "another shape": (
        *(".pt", torch_file(time_embed__0__bias=np.zeros(7, np.float32))),
        "time_embed.0/bias is float32[7], but the network has float32[128]",
    ),
    "another number of axes": (
        *(".pt", torch_file(time_embed__0__weight=np.zeros(7, np.float32))),
        "time_embed.0.weight has shape (7,), of 1 axes in place of 2",
    ),
    "no first convolution": (
        *(".pt", torch_file(input_blocks__0__0__weight=None)),
        "lacks input_blocks.0.0.weight",
    ),
    "no bias": (
        *(".pt", torch_file(time_embed__0__bias=None)),
        "time_embed.0/bias is none",
    ),
    "one more parameter": (
        *(".pt", torch_file(input_blocks__9__0__op__bias=np.zeros(3, np.float32))),
        "input_blocks.9.0/op/bias is float32[3], but the network has none",
    ),
    "a scalar": (
        *(".pt", torch_file(out__0__bias=np.zeros((), np.float32))),
        "out.0.bias is no parameter",
    ),
    "NaN": (
        *(".pt", torch_file(time_embed__0__bias=np.full(128, np.nan, np.float32))),
        "time_embed.0/bias has values that are not finite",
    ),
    "float16": (
        *(".pt", torch_file(time_embed__0__bias=np.zeros(128, np.float16))),
        "time_embed.0/bias is float16[128], but the network has float32[128]",
    ),
    "whole numbers": (
        *(".pt", torch_file(time_embed__0__bias=np.zeros(128, np.int64))),
        "time_embed.0/bias is int64[128], but the network has float32[128]",
    ),
    "a directory": (".pt", Path.mkdir, "is neither a folder of diffusers nor a model"),
    "a pipe": (".pt", os.mkfifo, "is not a regular file"),
    "a loop": (".pt", lambda path: path.symlink_to(path), "no such file"),
    "a device": (".pt", lambda path: path.symlink_to("/dev/zero"), "not a regular"),
    "an empty train state": ("", Path.touch, "not a flax msgpack file"),
    "a train state without average": (
        *("", lambda path: path.write_bytes(msgpack.packb({"step": 1}))),
        "not a flax msgpack file",
    ),
    "an array of 2^32 entries": ("", packed(b"\xdd\xff\xff\xff\xff"), "not a flax"),
    "text of 2^32 bytes": ("", packed(b"\xdb\xff\xff\xff\xff"), "not a flax"),
    "nested arrays": ("", packed(b"\x91" * 10**5 + b"\x01"), "not a flax"),
    "arrays that claim the file": ("", packed(b"\xdc\xff\xff" * 10**5), "not a flax"),
    "an unknown extension": (
        *("", extension(99, b"x")),
        "a holds",
    ),
    "an extension of 2^32 bytes": ("", packed(b"\xc9\xff\xff\xff\xff\x01"), "not a"),
    "an array of objects": (
        *("", extension(1, msgpack.packb([[1], "O", bytes(8)]))),
        "not a flax",
    ),
    "an array larger than its bytes": (
        *("", extension(1, msgpack.packb([[2**32], "float32", bytes(4)]))),
        "not a flax",
    ),
    "no network of the paper": ("", flax_file(CONV), "lacks "),
    "whole numbers in a train state": (
        *("", flax_file({"a": np.zeros(3, np.int32)})),
        "a holds int32",
    ),
    "a negative number of steps": (
        *("", flax_file(CONV, num_sample_steps=-1)),
        "num_sample_steps=-1",
    ),
    "steps that are none": (
        *("", flax_file(CONV, num_sample_steps="many")),
        "not a flax",
    ),
    "a header of 2^40 bytes": (".safetensors", safe_file(b"{}", 2**40), "not a safe"),
    "a header that is no JSON": (".safetensors", safe_file(b"nonsense"), "not a safe"),
    "a header that nests": (
        *(".safetensors", safe_file(b'{"a":' + b"[" * 10**5)),
        "not a safetensors file",
    ),
    "offsets beyond the end": (
        *(".safetensors", safe_file(TENSOR % (b"4", b"16"), data=b"xx")),
        "not a safetensors file",
    ),
    "a shape that overflows": (
        *(".safetensors", safe_file(TENSOR % (b"4611686018427387904,8", b"16"))),
        "not a safetensors file",
    ),
    "no card": (
        *(".safetensors", safe_file(TENSOR % (b"1", b"4"), data=bytes(4))),
        "has no card of progdist",
    ),
    "a card that nests": (
        ".safetensors",
        safe_file(
            b'{"__metadata__":{"num_steps":"%s"}}' % (b"[" * 10**5),
        ),
        "has no card of progdist",
    ),
}
# Folders of diffusers, which are refused whatever reads them.
FOLDERS: dict[str, Make] = {
    "a configuration that is no JSON": folder(b"nonsense"),
    "a configuration of bytes": folder(b"\xff\xfe\x00"),
    "a configuration that nests": folder(b"[" * 10**5),
    "a configuration that is a list": folder(b"[]"),
    "no weights": folder(config()),
    "weights that are a directory": folder(config(), Path.mkdir),
    "weights that are a pipe": folder(config(), os.mkfifo),
    "a header of 2^40 bytes": folder(config(), safe_file(b"{}", 2**40)),
    "no parameters": folder(config(), safe_file(b"{}")),
    "a class of code": folder(config(_class_name="os.system"), safe_file(b"{}")),
    "negative channels": folder(config(block_out_channels=[-32]), safe_file(b"{}")),
    "channels that are text": folder(config(block_out_channels="x"), safe_file(b"{}")),
    "a huge image": folder(config(sample_size=10**12), safe_file(b"{}")),
    "ten thousand levels": folder(
        config(
            block_out_channels=[32] * 10**4,
            down_block_types=["DownBlock2D"] * 10**4,
            up_block_types=["UpBlock2D"] * 10**4,
        ),
        safe_file(b"{}"),
    ),
}
HUGE, LONG = 10**400, "\x1b[2J\n" + "x" * 5000
# Fields of config.json, and a part of the line.
CONFIGS: dict[str, tuple[dict[str, object], str]] = {
    "a huge float": ({"norm_eps": HUGE}, "norm_eps is 1000"),
    "a huge number": ({"freq_shift": HUGE}, "freq_shift is 1000"),
    "2^40 pixels": ({"sample_size": 2**40}, "at most 16,384"),
    "10^30 classes": ({"num_class_embeds": 10**30}, "num_class_embeds is 1000"),
    "2^24 classes": ({"num_class_embeds": 2**24}, "num_classes=16777216: must be at"),
    "10^30 channels": ({"block_out_channels": [10**30]}, "at most 65,536"),
    "an embedding of 2^24": (
        *({"time_embedding_dim": 2**24},),
        "time_embedding_dim=16777216: must be at most 65,536",
    ),
    "31 levels": (
        {
            **{"sample_size": 2**14, "block_out_channels": [32] * 31},
            **{"down_block_types": ["DownBlock2D"] * 31},
            **{"up_block_types": ["UpBlock2D"] * 31},
        },
        "at least one level, at most 16",
    ),
    "sizes beyond any array": (
        {
            **{"sample_size": 2**14, "block_out_channels": [2**16]},
            **{"attention_head_dim": 1, "add_attention": True},
        },
        "has sizes beyond any array",
    ),
    "many blocks of a level": (
        *({"down_block_types": ["DownBlock2D"] * 10**4},),
        "must be 1 blocks, as block_out_channels has",
    ),
    "an unknown field with an escape": ({LONG: 1}, "[2J\\nxxx"),
    "a class with an escape": ({"_class_name": LONG}, "[2J\\nxxx"),
}
SCHEDULERS: dict[str, tuple[dict[str, object], str]] = {
    "a huge beta": ({"beta_start": HUGE}, "beta_start is 1000"),
    "huge betas": ({"trained_betas": [HUGE]}, "trained_betas: must be numbers"),
    "huge timesteps": ({"num_train_timesteps": HUGE}, "num_train_timesteps is 1000"),
    "many timesteps": ({"num_train_timesteps": 10**5}, "must be 1 to 10,000"),
    "a rule with an escape": ({"beta_schedule": LONG}, "[2J\\nxxx"),
}
INDICES: dict[str, tuple[object, str]] = {
    "an empty list": ([], "its unet is missing"),
    "a list of lists": ([[]], "its unet is missing"),
    "an escape": (["diffusers", LONG], r"its unet is \x1b[2J\nxxx"),
}
# Values of an index of shards.
SHARDS = [
    *([], {}, None, 1, "x" * 5000, "\U0001f600" * 255, "a\0b", "..", ""),
    *("../config.json", LONG),
]
# Those that would take memory, and a name that is no UTF-8.
BOMBS = [
    "lying sizes",
    "a compressed member",
    "a memo of 2^31 places",
    "a literal of 2^40 bytes",
    "a product that overflows",
    "a stride of zero",
    "a lying count",
    "a storage shared by a thousand",
    "an array of 2^32 entries",
    "text of 2^32 bytes",
    "nested arrays",
    "arrays that claim the file",
    "an extension of 2^32 bytes",
    "a header of 2^40 bytes",
]
