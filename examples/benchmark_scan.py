"""Cost of the selective scan and of the state-space bodies, on CPU or on a GPU.

Prints, in one run, so that only ratios need be believed:

- ``scan``: forward, and forward and backward, of the selective scan (256 channels, 16 states,
  float32) against the chunked torch backend and, where ``pip install mambapy`` was run, the
  parallel scan of mambapy; at 200,000 steps mambapy is left out, as one of its tensors takes
  3.4 GB.
- ``model``: forward of four Mamba layers on 4,096 tokens against the plain-torch path of
  transformers.
- ``norm``: forward and backward of the root-mean-square norm of the state-space bodies on 50,000
  tokens of width 128 against torch's.
- ``body``: a training step of the Caduceus body (d_model 128, 4 layers, bases as tokens,
  checkpoints), the median of the third to the fifth, from 25,000 to 200,000 bases, and of two
  bodies at once, each in a process of its own for the peak of memory, beside a floor: its matrix
  products at the speed of a large one, and each of its tensors moved once at the speed of a copy.

Every time is given as wall seconds and, in brackets, seconds of processor time of all threads,
which tell more on a machine with other work. glibc gives large blocks back to the system at
once and asks for them anew, which makes steps on long windows slower than in proportion; for
``body`` it is told to keep them (`KEEP_BLOCKS`, unless the environment says otherwise).

On a GPU (``--device cuda``) the clock is read when its work is done, and the peak of memory is
that of torch's allocator. A floor of matrix products and copies holds there too, but a scan costs
much more than its bytes.

    python examples/benchmark_scan.py
    python examples/benchmark_scan.py --device cuda
    python examples/benchmark_scan.py --parts scan --lengths 4096 --repeats 5
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regmask_sk._benchmark_cells import peak_memory_mb
from regmask_sk.backbones import CaduceusBackbone, MambaBackbone
from regmask_sk.ops.rms_norm import rms_norm
from regmask_sk.ops.selective_scan import scan_backend, selective_scan

D, N = 256, 16
D_MODEL, N_LAYERS = 128, 4
TOO_LONG_FOR_MAMBAPY = 2**16
KEEP_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}

Cost = tuple[float, float]


def on_gpu() -> bool:
    """Whether tensors are made on a GPU."""
    return torch.get_default_device().type == "cuda"


def synchronize() -> None:
    """Wait for what a GPU was given to do."""
    if on_gpu():
        torch.cuda.synchronize()


def cost(run: Callable[[], Any], repeats: int) -> Cost:
    """Median wall and processor seconds of a call, after one that is not counted."""
    run()
    walls, cpus = [], []
    for _ in range(repeats):
        synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        synchronize()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return sorted(walls)[repeats // 2], sorted(cpus)[repeats // 2]


def told(seconds: Cost) -> str:
    """Wall seconds, and processor seconds in brackets."""
    return f"{seconds[0]:9.4f} ({seconds[1]:8.4f})"


def ratio(slow: Cost, fast: Cost) -> str:
    """How many times slower, by wall and by processor time."""
    return f"{slow[0] / fast[0]:6.1f} ({slow[1] / fast[1]:6.1f})"


# -- the scan --------------------------------------------------------------------------


def scan_inputs(length: int) -> dict[str, Tensor]:
    """Draw inputs of the operator, with the decay rates that a model starts with."""
    torch.manual_seed(0)
    draw = torch.randn
    drawn = {
        "u": draw(1, length, D),
        "delta": torch.nn.functional.softplus(draw(1, length, D) - 4.0),
        "A": -torch.arange(1.0, N + 1.0).repeat(D, 1),
        "B": draw(1, length, N),
        "C": draw(1, length, N),
        "D": torch.ones(D),
    }
    return {name: tensor.requires_grad_() for name, tensor in drawn.items()}


def mambapy_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Scan as the model of mambapy does it."""
    from mambapy.pscan import pscan

    decay = torch.exp(delta.unsqueeze(-1) * A)
    inputs = (delta * u).unsqueeze(-1) * B.unsqueeze(2)
    states = pscan(decay, inputs)
    return (states @ C.unsqueeze(-1)).squeeze(3) + D * u


def scan_part(lengths: list[int], repeats: int) -> None:
    """Print the rows of the scan."""
    fast = scan_backend(torch.get_default_device())
    print(f"\nselective scan, {D} channels, {N} states, float32: seconds, wall (processor)")
    print(f"{'length':>8} {'':14} {'forward':>20} {'forward + backward':>20}  ratio, f + b")
    for length in lengths:
        x = scan_inputs(length)
        ways: dict[str, Callable[..., Tensor]] = {
            name: lambda name=name, **given: selective_scan(**given, backend=name)
            for name in (fast, "torch")
        }
        try:
            import mambapy  # noqa: F401
        except ImportError:
            print("         mambapy is not installed")
        else:
            if length < TOO_LONG_FOR_MAMBAPY:
                ways["mambapy pscan"] = mambapy_scan
        first: Cost | None = None
        outputs = []
        for name, scan in ways.items():
            n = repeats if name == fast else max(repeats // 3, 1)

            def forward(scan: Callable[..., Tensor] = scan) -> Tensor:
                with torch.no_grad():
                    return scan(**x)  # noqa: B023

            def both(scan: Callable[..., Tensor] = scan) -> None:
                torch.autograd.grad(scan(**x).sum(), list(x.values()))  # noqa: B023

            outputs.append(forward())
            costs = cost(forward, n), cost(both, n)
            first = first or costs[1]
            print(
                f"{length:8,} {name:14} {told(costs[0])} {told(costs[1])}  {ratio(costs[1], first)}"
            )
        for other in outputs[1:]:
            difference = (other - outputs[0]).norm() / outputs[0].norm()
            assert difference < 1e-5, difference


# -- the model -------------------------------------------------------------------------


def model_part(repeats: int, length: int = 4096) -> None:
    """Print the row of the model."""
    try:
        import transformers
    except ImportError:
        print("\ntransformers is not installed: no comparison of the model")
        return
    config = transformers.MambaConfig(
        vocab_size=8, hidden_size=D_MODEL, num_hidden_layers=N_LAYERS, use_mambapy=False
    )
    theirs = transformers.MambaModel(config).eval()
    ours = MambaBackbone(4, d_model=D_MODEL, n_layers=N_LAYERS, dropout=0.0, resolution=1).eval()
    x = torch.rand(1, 4, length)
    embedded = torch.randn(1, length, D_MODEL)
    with torch.no_grad():
        mine = cost(lambda: ours(x), repeats)
        other = cost(lambda: theirs(inputs_embeds=embedded, use_cache=False), 1)
    print(f"\n{N_LAYERS} Mamba layers, d_model {D_MODEL}, forward, {length:,} tokens: seconds")
    print(f"{'regmask_sk':14} {told(mine)}")
    print(f"{'transformers':14} {told(other)}  {ratio(other, mine)}")


# -- the norm --------------------------------------------------------------------------


def norm_part(repeats: int, length: int = 50_000) -> None:
    """Print the row of the norm."""
    x = torch.randn(1, length, D_MODEL, requires_grad=True)
    weight = torch.ones(D_MODEL, requires_grad=True)
    slope = torch.randn(x.shape)

    def both(norm: Callable[[], Tensor]) -> Cost:
        return cost(lambda: torch.autograd.grad(norm(), (x, weight), slope), repeats)

    mine = both(lambda: rms_norm(x, weight, 1e-5))
    other = both(lambda: torch.nn.functional.rms_norm(x, weight.shape, weight, 1e-5))
    print(f"\nroot-mean-square norm, d_model {D_MODEL}, forward + backward, {length:,} tokens")
    print(f"{'regmask_sk':14} {told(mine)}")
    print(f"{'torch':14} {told(other)}  {ratio(other, mine)}")


# -- the body --------------------------------------------------------------------------


def machine() -> tuple[Cost, Cost]:
    """Seconds of a GFLOP of a large matrix product, and of a GB read and written by a copy."""
    side, size = (8192, 2**28) if on_gpu() else (2048, 2**26)
    a = torch.randn(side, side)
    source, target = torch.randn(size), torch.empty(size)
    product = [t / (2 * side**3 / 1e9) for t in cost(lambda: a @ a, 5)]
    copy = [t / (2 * 4 * size / 1e9) for t in cost(lambda: target.copy_(source), 5)]
    return (product[0], product[1]), (copy[0], copy[1])


def floor(length: int, per_gflop: float, per_gb: float) -> float:
    """Seconds of a training step without computing anything twice.

    Backward has two products for each of forward, and moves twice what forward moves.
    """
    d, rank = 2 * D_MODEL, D_MODEL // 16
    products = D_MODEL * 2 * d + 2 * (d * (rank + 2 * N) + rank * d) + d * D_MODEL
    conv, x_proj, dt_proj, scan = 2 * d, d + rank + 2 * N, rank + d, 4 * d + 2 * N
    ways = 2 * (conv + x_proj + dt_proj + scan) + 3 * d
    moved = 2 * D_MODEL + (D_MODEL + 2 * d) + ways + (d + D_MODEL) + 3 * D_MODEL
    forward = 2 * products * per_gflop + 4 * moved * per_gb
    return 3 * N_LAYERS * length * forward / 1e9


def training_step(length: int, bodies: int, threads: int, device: str) -> dict[str, float]:
    """Cost of a step of one body or more on a window, in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    made = [
        CaduceusBackbone(
            5, d_model=D_MODEL, n_layers=N_LAYERS, dropout=0.0, resolution=1, checkpointing=True
        ).to(device)
        for _ in range(bodies)
    ]
    torch.set_default_device(device)

    def step(x: Tensor) -> None:
        torch.stack([body(x).square().mean() for body in made]).sum().backward()

    step(torch.rand(1, 5, 64))  # compiles, or loads what was compiled
    x = torch.rand(1, 5, length)
    step(x)  # the first steps ask for memory: this one, and the one that `cost` leaves out
    wall, cpu = cost(lambda: step(x), 3)
    peak = torch.cuda.max_memory_allocated() if on_gpu() else peak_memory_mb() * 1e6
    return {"wall": wall, "cpu": cpu, "gib": peak / 2**30}


def body_part(lengths: list[int]) -> None:
    """Print the rows of the body; the machine's speed is measured anew around each."""
    print(
        f"\nCaduceus body, d_model {D_MODEL}, {N_LAYERS} layers, bases as tokens, checkpoints, "
        "one step\nfloor from GFLOP/s and GB/s of this machine, before and after each\n"
        + " ".join(f"{name}={value}" for name, value in KEEP_BLOCKS.items())
    )
    header = (
        f"{'seconds':>20} {'floor':>20} {'ratio':>15} {'peak GiB':>9} {'GFLOP/s':>8} {'GB/s':>5}"
    )
    print(f"{'bases':>8} {'bodies':>6} {header}")
    before = machine()
    for length, bodies in [*((length, 1) for length in lengths), (max(lengths), 2)]:
        arguments = {
            **{"length": length, "bodies": bodies, "threads": torch.get_num_threads()},
            "device": str(torch.get_default_device()),
        }
        command = [sys.executable, __file__, "--worker", json.dumps(arguments)]
        environment = {**KEEP_BLOCKS, **os.environ}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        found = json.loads(done.stdout)
        after = machine()
        product, copy = (
            tuple((a + b) / 2 for a, b in zip(*pair, strict=True))
            for pair in zip(before, after, strict=True)
        )
        before = after
        seconds = (found["wall"], found["cpu"])
        least = tuple(bodies * floor(length, product[i], copy[i]) for i in range(2))
        print(
            f"{length:8,} {bodies:6} {told(seconds)} {told(least)} {ratio(seconds, least)} "
            f"{found['gib']:9.2f} {1 / product[0]:8.0f} {1 / copy[0]:5.1f}",
            flush=True,
        )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", default=["scan", "model", "norm", "body"])
    parser.add_argument("--lengths", nargs="+", type=int, help="of the scan and of the body")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help='"cpu" (default) or "cuda"')
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(training_step(**given.worker)))
        return
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    load = os.getloadavg()[0]
    print(f"{given.threads} threads on {os.cpu_count()} cores, load {load:.1f} at the start")
    torch.set_default_device(given.device)
    if on_gpu():
        print(torch.cuda.get_device_name())
    if "scan" in given.parts:
        scan_part(given.lengths or [4_096, 32_768, 200_000], given.repeats)
    if "model" in given.parts:
        model_part(given.repeats)
    if "norm" in given.parts:
        norm_part(given.repeats)
    if "body" in given.parts:
        body_part(given.lengths or [25_000, 50_000, 100_000, 200_000])


if __name__ == "__main__":
    main()
