"""Data parallelism over all devices of all processes, on one mesh axis, "data".

A mapped function can see the devices in groups, which are a second axis, "group".
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from progdist.errors import Error, InputError, exit_code_of

PyTree = Any
DATA, GROUP = "data", "group"
REPLICATED = PartitionSpec()
ROWS = PartitionSpec(DATA)


_T = TypeVar("_T")


class PeerError(Error):
    """Another process failed."""

    exit_code = 5


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh of one axis, "data", over the devices; by default over all."""
    if devices is None:
        # Sorted, so that the rows of a process are one piece of the global batch.
        devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    return Mesh(np.asarray(devices), (DATA,), axis_types=(AxisType.Auto,))


def devices_sharing(batch_size: int) -> list[Any]:
    """Returns the largest number of devices that can share the batch evenly."""
    devices = jax.devices()
    counts = range(len(devices), 0, -1)
    return devices[: next(n for n in counts if batch_size % n == 0)]


def pmap(
    fn: Callable,
    mesh: Mesh,
    in_specs: Sequence[PyTree],
    out_specs: PyTree,
    donate_argnums: tuple[int, ...] = (),
    num_groups: int | None = None,
    small_maps: bool = False,
) -> Callable:
    """Maps `fn` over the devices, as `jax.pmap` does, and compiles it.

    Unlike with `jax.pmap`, the caller holds global arrays: a batch has its whole
    leading axis and replicated trees have no device axis, so neither checkpoints nor
    results depend on the number of devices. Inside, `fn` sees its device's rows and may
    use `varying`, `mean` and `rows_here`. On a CPU the result has compiler options of
    its own, with which it cannot be called inside another `jax.jit`.

    Args:
      fn: the function of one device's rows.
      mesh: from `make_mesh`.
      in_specs: for each argument `ROWS` (split by rows), `REPLICATED`, or a tree of
        such values.
      out_specs: specs of the result, or a tuple of them for a tuple of results.
      donate_argnums: arguments whose memory the result may reuse.
      num_groups: number of groups of consecutive devices that `fn` sees, if any.
      small_maps: whether all feature maps of `fn` are below 8x8, where XLA's default
        options are the fastest on a CPU.
    """
    grouped = _grouped(mesh, num_groups)
    rows = PartitionSpec(grouped.axis_names)
    mapped = jax.shard_map(
        fn,
        mesh=grouped,
        in_specs=jax.tree.map(lambda s: rows if s == ROWS else s, tuple(in_specs)),
        out_specs=jax.tree.map(lambda s: rows if s == ROWS else s, out_specs),
    )
    # Results keep the shardings of the arguments, so that the next call does not
    # compile again.
    shardings = _shardings(mesh, out_specs)
    has_options = mesh.devices.flat[0].platform == "cpu" and not small_maps
    return jax.jit(
        mapped,
        donate_argnums=donate_argnums,
        out_shardings=shardings,
        compiler_options=cpu_options() if has_options else None,
    )


@functools.cache
def cpu_options() -> dict[str, str]:
    """Returns the options of programs compiled for CPU.

    They leave most convolutions to Eigen, which has faster gradients than YNNPACK.
    """
    kinds = "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    return supported({"xla_cpu_experimental_ynn_fusion_type": kinds})


def supported(options: dict[str, str]) -> dict[str, str]:
    """Returns the options if this version of XLA accepts them, else none."""
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def _grouped(mesh: Mesh, num_groups: int | None) -> Mesh:
    """Returns the mesh over groups, over devices, or over both if they differ."""
    devices, axes = mesh.devices, (GROUP, DATA)
    if num_groups == devices.size:
        axes = (GROUP,)
    elif num_groups in (None, 1):
        axes = (DATA,)
    else:
        devices = devices.reshape(num_groups, -1)
    return Mesh(devices, axes, axis_types=(AxisType.Auto,) * len(axes))


def _axes() -> tuple[str, ...]:
    return jax.sharding.get_abstract_mesh().axis_names


def num_devices() -> int:
    """Returns, inside a `pmap`, the number of devices."""
    return jax.lax.axis_size(_axes())


def varying(tree: PyTree) -> PyTree:
    """Returns, inside a `pmap`, replicated values as each device's own.

    The gradient with respect to a replicated value is already a sum over devices; with
    respect to a device's own it is that of the device's rows.
    """
    return jax.tree.map(lambda x: jax.lax.pcast(x, _axes(), to="varying"), tree)


def mean(tree: PyTree, axis: str) -> PyTree:
    """Returns, inside a `pmap`, the mean over the devices of a group, or over groups.

    Args:
      tree: values that vary over the axis.
      axis: `DATA` or `GROUP`; nothing is done if the devices are not split over it.
    """
    return jax.lax.pmean(tree, axis) if axis in _axes() else tree


def rows_here(num_local: int) -> tuple[jax.Array, int]:
    """Returns, inside a `pmap`, this device's rows and the size of the global batch."""
    first = jax.lax.axis_index(_axes()) * num_local
    return first + jnp.arange(num_local), num_local * num_devices()


def place(tree: PyTree, mesh: Mesh, specs: PyTree = REPLICATED) -> PyTree:
    """Returns a copy of the tree on the devices.

    `device_put` may share memory with its argument; donating the result would then
    delete the original.

    Args:
      tree: arrays.
      mesh: the devices.
      specs: `PartitionSpec` of the arrays; one value, or a tree of them.
    """
    shardings = _shardings(mesh, specs)
    return jax.jit(lambda t: jax.tree.map(jnp.copy, t), out_shardings=shardings)(tree)


def placed_shapes(tree: PyTree, mesh: Mesh, specs: PyTree) -> PyTree:
    """Returns shapes, dtypes and shardings of the leaves, as placed by `place`."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        tree,
        _shardings(mesh, specs),
    )


def _shardings(mesh: Mesh, specs: PyTree) -> PyTree:
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def shard(tree: PyTree, mesh: Mesh) -> PyTree:
    """Returns this process's rows as part of global arrays split over the devices."""
    sharding = NamedSharding(mesh, ROWS)
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharding, rows), tree
    )


def local_rows(batch_size: int) -> slice:
    """Returns the rows of a global batch that this process must provide."""
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def barrier(name: str) -> None:
    """Waits until all processes have reached this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def of_all_processes(value: int) -> list[int]:
    """Returns the value of each process; waits for all of them."""
    if jax.process_count() == 1:
        return [value]
    return multihost_utils.process_allgather(np.int32(value)).tolist()


def broadcast_from_zero(what: bool) -> bool:
    """Returns process 0's value; the others may see its files a moment later."""
    return bool(of_all_processes(int(what))[0])


def on_process_zero(act: Callable[[], None]) -> None:
    """Calls `act` on process 0 while the others wait; if it fails there, all fail."""
    together(lambda: None if jax.process_index() else act())


def together(act: Callable[[], _T]) -> _T:
    """Calls `act` on all processes; where it fails on one, it fails on all.

    `act` must not wait for the other processes.

    All then end with one exit code, that of the first process that failed.

    Raises:
      Exception: the error of `act`, where it failed.
      PeerError: on the other processes.
    """
    failure, result = None, cast(_T, None)
    try:
        result = act()
    except Exception as error:
        failure = error
    codes = of_all_processes(exit_code_of(failure) if failure else 0)
    if not any(codes):
        return result
    first = next(number for number, code in enumerate(codes) if code)
    error = failure or PeerError(failure_of(first))
    if isinstance(error, Error):
        error.exit_code, error.everywhere = codes[first], True
    raise error


def failure_of(process: int) -> str:
    """Returns the message of a process that ends because of another's failure."""
    return f"process {process} failed; its own message says why"


@contextlib.contextmanager
def refused_by_all() -> Iterator[None]:
    """Lets bad input that all processes refuse end them in order, with one code."""
    try:
        yield
    except InputError as error:
        error.everywhere = True
        raise


def gather(rows: Any) -> np.ndarray:
    """Returns the whole of an array split over the devices, on all processes."""
    if jax.process_count() == 1:
        return np.asarray(rows)
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))


def local_part(rows: jax.Array) -> np.ndarray:
    """Returns this process's rows of an array that is split over the devices."""
    pieces = sorted(rows.addressable_shards, key=lambda s: s.index[0].start or 0)
    return np.concatenate([np.asarray(piece.data) for piece in pieces])


def each_process(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Returns the arrays of each process, bit for bit, even float64; waits for all.

    Shapes and dtypes must be the same on all processes.
    """
    if jax.process_count() == 1:
        return [arrays]
    parts: list[dict[str, np.ndarray]] = [{} for _ in range(jax.process_count())]
    for name, array in arrays.items():
        if not array.size:
            for part in parts:
                part[name] = array
            continue
        # As bytes, since JAX would convert float64 to float32.
        text = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        for part, row in zip(parts, _all_bytes(text), strict=True):
            part[name] = np.frombuffer(row, array.dtype).reshape(array.shape)
    return parts


def _all_bytes(text: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in multihost_utils.process_allgather(text)]


class Vote:
    """Vote of all processes: each call returns the largest vote to all of them.

    On accelerators it returns the result of the previous call, so as not to wait.
    """

    def __init__(self, mesh: Mesh) -> None:
        """Takes the mesh of the devices that carry the votes."""
        self._mesh = mesh
        self._count: Any = None
        replicated = NamedSharding(mesh, REPLICATED)
        self._largest = jax.jit(jnp.max, out_shardings=replicated)

    def __call__(self, vote: int) -> int:
        """Returns the largest vote of the processes; 0 for none.

        All processes must call it equally often.
        """
        if jax.process_count() == 1:
            return vote
        here = np.full(jax.local_device_count(), vote, np.int32)
        counted = self._largest(shard(here, self._mesh))
        if jax.default_backend() == "cpu":
            return int(counted)
        before, self._count = self._count, counted
        return 0 if before is None else int(before)
