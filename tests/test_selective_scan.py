"""Every backend against the loop over steps, its gradient, and the choice among them."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading

import pytest
import torch
from devices import needs_cuda, needs_two_gpus
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton_interpreter import check_in_interpreter

from regmask_sk.ops import selective_scan as module
from regmask_sk.ops.selective_scan import scan_backend, selective_scan

FAST = ("torch", "numba")


def inputs(
    batch: int,
    length: int,
    d: int = 5,
    n: int = 3,
    *,
    dtype: torch.dtype = torch.float64,
    softplus: bool = True,
    seed: int = 0,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    delta = draw(batch, length, d) - 1.0
    drawn = {
        "u": draw(batch, length, d),
        "delta": delta if softplus else torch.nn.functional.softplus(delta),
        "A": -draw(d, n).exp(),
        "B": draw(batch, length, n),
        "C": draw(batch, length, n),
        "D": draw(d),
        "z": draw(batch, length, d),
    }
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in drawn.items()}


def with_gradients(given: dict[str, Tensor], **changed: object) -> tuple[Tensor, list[Tensor]]:
    """Output, and gradients of a weighted sum of it, all in float64."""
    out = selective_scan(**given, **changed)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.device)
    found = torch.autograd.grad((out * weight.to(out.dtype)).sum(), list(given.values()))
    return out.double(), [g.double() for g in found]


def distance(a: Tensor, b: Tensor) -> float:
    """Relative L2."""
    a, b = a.detach(), b.detach()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


# -- the numbers -----------------------------------------------------------------------


def test_the_loop_is_the_recurrence() -> None:
    x = {name: t.detach() for name, t in inputs(1, 6, d=1, n=1, softplus=False).items()}
    h, expected = 0.0, []
    for t in range(6):
        u, delta, b, c, z = (float(x[k][0, t, 0]) for k in ("u", "delta", "B", "C", "z"))
        h = float(torch.exp(delta * x["A"])) * h + delta * b * u
        expected.append((c * h + float(x["D"]) * u) * z / (1 + float(torch.exp(-x["z"][0, t, 0]))))
    found = selective_scan(**x, backend="reference").flatten()
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize(("batch", "length"), [(2, 5), (1, 20)])
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_gradcheck(backend: str, batch: int, length: int, softplus: bool, reverse: bool) -> None:
    x = inputs(batch, length, d=2, n=2, softplus=softplus)

    def scan(*tensors: Tensor) -> Tensor:
        return selective_scan(*tensors, delta_softplus=softplus, reverse=reverse, backend=backend)

    # Fast mode checks random combinations of the entries: enough for the longer one.
    assert torch.autograd.gradcheck(scan, tuple(x.values()), fast_mode=length > 5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 1100])
@pytest.mark.parametrize("backend", FAST)
def test_float32_agrees_with_the_float64_loop(backend: str, length: int, reverse: bool) -> None:
    # 70 channels: one full block and a part of one; 5 states: not a multiple of four.
    shape = (2, length, 70, 5) if length < 100 else (1, length, 3, 16)
    options = {"delta_softplus": True, "reverse": reverse}
    out, gradients = with_gradients(inputs(*shape), backend="reference", **options)
    single = inputs(*shape, dtype=torch.float32)
    found, found_gradients = with_gradients(single, backend=backend, **options)
    assert distance(found, out) < 1e-6
    for name, a, b in zip(single, found_gradients, gradients, strict=True):
        assert distance(a, b) < 1e-6, name


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("missing", [("D",), ("z",), ("D", "z")])
def test_what_may_be_left_out(backend: str, missing: tuple[str, ...]) -> None:
    def some(dtype: torch.dtype) -> dict[str, Tensor]:
        x = inputs(2, 40, dtype=dtype, softplus=False)
        return {name: t for name, t in x.items() if name not in missing}

    out, gradients = with_gradients(some(torch.float64), backend="reference")
    found, found_gradients = with_gradients(some(torch.float32), backend=backend)
    assert distance(found, out) < 1e-6
    for a, b in zip(found_gradients, gradients, strict=True):
        assert distance(a, b) < 1e-6


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 80),
    d=st.sampled_from([1, 7, 64, 65]),
    n=st.sampled_from([1, 4, 6]),
    reverse=st.booleans(),
    backend=st.sampled_from(FAST),
)
def test_any_shape(batch: int, length: int, d: int, n: int, reverse: bool, backend: str) -> None:
    x = inputs(batch, length, d, n, dtype=torch.float32)
    options = {"delta_softplus": True, "reverse": reverse}
    double = {name: t.detach().double().requires_grad_() for name, t in x.items()}
    out, gradients = with_gradients(double, backend="reference", **options)
    found, found_gradients = with_gradients(x, backend=backend, **options)
    assert distance(found, out) < 1e-6
    for name, a, b in zip(x, found_gradients, gradients, strict=True):
        # A alone sums over the whole length what may cancel.
        assert distance(a, b) < 1e-5 or (a - b).abs().max() < 1e-6, name


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_reverse_is_flip_scan_flip(backend: str) -> None:
    x = inputs(2, 70, dtype=torch.float32)
    flipped = {k: t.flip(1) if t.ndim == 3 else t for k, t in x.items()}
    there = selective_scan(**x, delta_softplus=True, reverse=True, backend=backend)
    back = selective_scan(**flipped, delta_softplus=True, backend=backend).flip(1)
    torch.testing.assert_close(there, back, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(there, selective_scan(**x, delta_softplus=True, backend=backend))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("rate", [1e-4, 30.0, 1e4])
def test_slow_and_fast_decay(backend: str, rate: float) -> None:
    def some(dtype: torch.dtype) -> dict[str, Tensor]:
        x = inputs(1, 200, dtype=dtype, softplus=False)
        x["A"] = (x["A"].detach() * rate).requires_grad_()
        return x

    out, gradients = with_gradients(some(torch.float64), backend="reference")
    found, found_gradients = with_gradients(some(torch.float32), backend=backend)
    assert distance(found, out) < 1e-6
    for name, a, b in zip(some(torch.float32), found_gradients, gradients, strict=True):
        assert torch.isfinite(a).all()
        # With a fast decay next to nothing depends on A: what is left is below float32.
        assert distance(a, b) < 3e-6 or (rate > 1.0 and name == "A"), name


@pytest.mark.parametrize("backend", FAST)
def test_softplus_of_extreme_steps(backend: str) -> None:
    x = inputs(1, 9, dtype=torch.float32)
    raw = torch.tensor([-80.0, -30.0, -9.0, -1e-3, 0.0, 1e-3, 9.0, 30.0, 80.0])
    x["delta"] = raw[None, :, None].expand(1, 9, 5).contiguous().requires_grad_()
    double = {name: t.detach().double().requires_grad_() for name, t in x.items()}
    out, gradients = with_gradients(double, backend="reference", delta_softplus=True)
    found, found_gradients = with_gradients(x, backend=backend, delta_softplus=True)
    assert distance(found, out) < 1e-6
    assert distance(found_gradients[1], gradients[1]) < 3e-6


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "D", "z"])
def test_nan_is_not_hidden(backend: str, name: str) -> None:
    x = {key: t.detach() for key, t in inputs(1, 8, dtype=torch.float32).items()}
    x[name].view(-1)[0] = torch.nan
    assert selective_scan(**x, delta_softplus=True, backend=backend).isnan().any()


@pytest.mark.parametrize("backend", FAST)
def test_bfloat16_keeps_its_state_in_float32(backend: str) -> None:
    # A sum of 2,000 equal steps without decay: in bfloat16 it would stop growing at 256.
    one = torch.ones(1, 2000, 2, dtype=torch.bfloat16)
    A = torch.full((2, 4), -1e-6)
    B = torch.ones(1, 2000, 4, dtype=torch.bfloat16)
    out = selective_scan(one, one, A, B, B, backend=backend)
    assert out.dtype == torch.bfloat16
    assert abs(float(out[0, -1, 0]) / 8000 - 1) < 0.01


@pytest.mark.parametrize("backend", FAST)
def test_gradients_have_the_dtypes_of_their_inputs(backend: str) -> None:
    x = inputs(1, 20, dtype=torch.bfloat16)
    x["A"] = x["A"].detach().float().requires_grad_()
    out = selective_scan(**x, delta_softplus=True, backend=backend)
    out.float().sum().backward()
    assert {name: t.grad.dtype for name, t in x.items()} == {name: t.dtype for name, t in x.items()}


def test_gradients_of_some_inputs_only() -> None:
    x = inputs(1, 20, dtype=torch.float32)
    frozen = {name: t if name == "B" else t.detach() for name, t in x.items()}
    selective_scan(**frozen, delta_softplus=True).sum().backward()
    assert x["B"].grad is not None
    assert x["u"].grad is None


def test_tensors_need_not_be_contiguous() -> None:
    x = inputs(2, 20, d=4, dtype=torch.float32)
    strided = {
        k: t.detach().transpose(1, 2).contiguous().transpose(1, 2) if t.ndim == 3 else t.detach()
        for k, t in x.items()
    }
    assert not strided["u"].is_contiguous()
    torch.testing.assert_close(
        selective_scan(**strided, delta_softplus=True, backend="numba"),
        selective_scan(**x, delta_softplus=True, backend="numba"),
    )


# -- threads, processes, compilers -------------------------------------------------------


def big() -> dict[str, Tensor]:
    """Enough work for several threads."""
    x = inputs(2, 600, 128, 16, dtype=torch.float32, softplus=False)
    return {name: t.detach() for name, t in x.items()}


@pytest.fixture
def four_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_the_number_of_threads_changes_no_bit() -> None:
    x = {name: t.requires_grad_() for name, t in big().items()}
    out, gradients = with_gradients(x, backend="numba")
    torch.set_num_threads(1)
    alone, alone_gradients = with_gradients(x, backend="numba")
    assert torch.equal(out, alone)
    assert all(torch.equal(a, b) for a, b in zip(gradients, alone_gradients, strict=True))


@pytest.mark.usefixtures("four_threads")
def test_kernels_can_be_called_from_several_threads() -> None:
    x = big()
    expected = selective_scan(**x, backend="numba")
    same: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda: same.append(torch.equal(selective_scan(**x, backend="numba"), expected))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 4


def _scan_in_child(queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)  # as in torch's loader workers: its own threads do not survive a fork
    queue.put(float(selective_scan(**big(), backend="numba").double().sum()))


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.usefixtures("four_threads")
def test_a_process_forked_after_the_kernel_ran_can_run_it() -> None:
    expected = float(selective_scan(**big(), backend="numba").double().sum())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_scan_in_child, args=(queue,), daemon=True)
    child.start()
    assert queue.get(timeout=60) == pytest.approx(expected)
    child.join(60)
    assert child.exitcode == 0


def test_the_operator_meets_torchs_rules() -> None:
    x = inputs(1, 40, dtype=torch.float32)
    arguments = (*x.values(), True, True, "numba", True)
    # Its output of saved states is no function of the inputs that one could differentiate.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.regmask_sk.selective_scan.default, arguments, test_utils=tests)


def test_torch_compile_keeps_the_scan_whole() -> None:
    x = inputs(1, 40, dtype=torch.float32)

    def twice(u: Tensor) -> Tensor:
        rest = {name: t for name, t in x.items() if name != "u"}
        y = selective_scan(u * 2.0, **rest, delta_softplus=True, backend="numba")
        return y.tanh()

    compiled = torch.compile(twice, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x["u"]), twice(x["u"]))
    (found,) = torch.autograd.grad(compiled(x["u"]).sum(), x["u"])
    (expected,) = torch.autograd.grad(twice(x["u"]).sum(), x["u"])
    torch.testing.assert_close(found, expected)


def test_kernels_compile_where_nothing_can_be_kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    from regmask_sk.ops._numba_compiled import compiled

    # As with a read-only install and no home folder.
    for name in ("CacheImpl", "CompileResultCacheImpl"):
        monkeypatch.setattr(getattr(caching, name), "_locator_classes", [])

    def twice(x: int) -> int:
        return 2 * x

    assert compiled(twice)(3) == 6


TRITON = """
import torch
from regmask_sk.ops import _scan_triton
from test_selective_scan import distance, inputs, with_gradients

for softplus, reverse, shortest in ((True, False, 20), (True, True, 20), (False, False, 64)):
    # Four segments, of which the last is not full, or one; states that are no power of two.
    _scan_triton._SHORTEST = shortest
    x, single = [
        {k: t for k, t in drawn.items() if softplus or k not in "Dz"}
        for dtype in (torch.float64, torch.float32)
        for drawn in [inputs(1, 85, 2, 3, dtype=dtype, softplus=softplus)]
    ]
    options = {"delta_softplus": softplus, "reverse": reverse}
    out, gradients = with_gradients(x, backend="reference", **options)
    found, found_gradients = with_gradients(single, backend="triton", **options)
    assert distance(found, out) < 1e-6, (options, distance(found, out))
    for name, a, b in zip(x, found_gradients, gradients, strict=True):
        assert distance(a, b) < 2e-6, (options, name, distance(a, b))
half = {k: t.detach() for k, t in inputs(1, 9, 2, 3, dtype=torch.bfloat16).items()}
half["A"] = half["A"].float()
from regmask_sk.ops.selective_scan import selective_scan
assert selective_scan(**half, delta_softplus=True, backend="triton").dtype == torch.bfloat16
print("agrees")
"""


def test_triton_in_its_interpreter() -> None:
    check_in_interpreter(TRITON)


@needs_cuda
@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("reverse", [False, True])
def test_on_cuda(backend: str, reverse: bool) -> None:
    if backend == "triton":
        pytest.importorskip("triton", reason="Triton is not installed")
    options = {"delta_softplus": True, "reverse": reverse}
    # Several segments, the last one not full; channels and states that fill no tile.
    out, gradients = with_gradients(inputs(2, 300, 70, 5), backend="reference", **options)
    x = inputs(2, 300, 70, 5, dtype=torch.float32)
    moved = {name: t.detach().cuda().requires_grad_() for name, t in x.items()}
    found, found_gradients = with_gradients(moved, backend=backend, **options)
    assert distance(found.cpu(), out) < 1e-6
    for name, a, b in zip(x, found_gradients, gradients, strict=True):
        assert distance(a.cpu(), b) < 3e-6, name


@needs_cuda
@pytest.mark.parametrize("n", [1, 16, 64])
@pytest.mark.parametrize("batch", [1, 3])
def test_long_sequences_on_cuda_twice_the_same(batch: int, n: int) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    drawn = inputs(batch, 20_000, 40, n, dtype=torch.float32)
    x = {name: t.detach().cuda().requires_grad_() for name, t in drawn.items()}
    first, again = (with_gradients(x, delta_softplus=True, backend="triton") for _ in range(2))
    exact = {name: t.detach().double().requires_grad_() for name, t in x.items()}
    out, gradients = with_gradients(exact, delta_softplus=True, backend="torch")
    assert distance(first[0], out) < 2e-6
    for name, a, b in zip(x, first[1], gradients, strict=True):
        assert distance(a, b) < 3e-6, name
    # Nothing is added up in an order that changes from run to run.
    for a, b in zip([first[0], *first[1]], [again[0], *again[1]], strict=True):
        assert torch.equal(a, b)


@needs_cuda
def test_half_precision_on_cuda_keeps_a_state_in_single() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    drawn = {k: t.detach().cuda() for k, t in inputs(1, 500, 20, 8, dtype=torch.bfloat16).items()}
    drawn["A"] = drawn["A"].float()
    found = selective_scan(**drawn, delta_softplus=True)
    exact = {name: t.double() for name, t in drawn.items()}
    assert found.dtype == torch.bfloat16
    assert distance(found.double(), selective_scan(**exact, delta_softplus=True)) < 4e-3


@needs_two_gpus
def test_on_a_gpu_that_is_not_the_current_one() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    drawn = inputs(1, 300, 20, 8, dtype=torch.float32)
    results = []
    for device in ("cuda:0", "cuda:1"):
        x = {name: t.detach().to(device).requires_grad_() for name, t in drawn.items()}
        out, gradients = with_gradients(x, delta_softplus=True)
        results.append([t.cpu() for t in (out, *gradients)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_importing_the_operator_loads_no_compiler() -> None:
    code = (
        "import sys, regmask_sk.ops.selective_scan;"
        "sys.exit('numba' in sys.modules or 'triton' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- the choice ------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGMASK_SCAN_BACKEND", raising=False)


def test_the_choice_left_to_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scan_backend("cpu") == "numba"
    assert scan_backend("cpu", torch.float64) == "torch"
    assert scan_backend("mps") == "torch"
    monkeypatch.setattr(module, "_has_triton", lambda: True)
    assert scan_backend("cuda:1") == "triton"
    assert scan_backend("cuda", torch.float64) == "torch"


def test_without_triton_cuda_falls_back_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    module._has_triton.cache_clear()
    with pytest.warns(RuntimeWarning, match="Triton is not installed.*pip install triton"):
        assert scan_backend("cuda") == "torch"
    assert scan_backend("cuda") == "torch"
    module._has_triton.cache_clear()


def test_the_environment_and_the_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGMASK_SCAN_BACKEND", "torch")
    assert scan_backend("cpu") == "torch"
    assert scan_backend("cpu", backend="reference") == "reference"
    monkeypatch.setenv("REGMASK_SCAN_BACKEND", "cuda")
    with pytest.raises(ValueError, match=r"REGMASK_SCAN_BACKEND='cuda' is not known.*'numba'"):
        scan_backend("cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cpu", torch.float32, "fast"), r"backend='fast' is not known; expected 'auto' or one"),
        (("cpu", torch.float64, "numba"), r"backend='numba' has a float32 state.*float64"),
        (("cuda", torch.float32, "numba"), r"backend='numba' works on CPU.*'cuda'"),
        (("cpu", torch.float32, "triton"), r"backend='triton' works on CUDA.*'cpu'"),
    ],
)
def test_choices_that_do_not_work(
    arguments: tuple, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=message):
        scan_backend(*arguments)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("u", (2, 0, 5), r"u must have shape \(batch, length, d\).*got \(2, 0, 5\)"),
        ("u", (6, 5), r"u must have shape \(batch, length, d\).*got \(6, 5\)"),
        ("A", (4, 3), r"A must have shape \(d, n\) = \(5, n\).*got \(4, 3\)"),
        ("delta", (2, 6, 4), r"delta must have shape \(2, 6, 5\).*got \(2, 6, 4\)"),
        ("B", (2, 6, 5), r"B must have shape \(2, 6, 3\).*got \(2, 6, 5\)"),
        ("D", (3,), r"D must have shape \(5,\).*got \(3,\)"),
        ("z", (2, 5), r"z must have shape \(2, 6, 5\).*got \(2, 5\)"),
    ],
)
def test_shapes_that_do_not_fit(name: str, shape: tuple[int, ...], message: str) -> None:
    x = {key: t.detach() for key, t in inputs(2, 6).items()}
    x[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        selective_scan(**x)


def test_devices_that_do_not_fit() -> None:
    x = {key: t.detach() for key, t in inputs(2, 6).items()}
    x["C"] = x["C"].to("meta")
    with pytest.raises(ValueError, match=r"C is on meta, but u is on cpu"):
        selective_scan(**x)
