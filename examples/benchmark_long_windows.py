"""Seconds and peak memory of the whole model on windows of 200,000 bp, body by body.

Simulates a small genome as real files (four bases and three tracks: seven channels), and for
each body and each grain asked for runs, each in a process of its own,

- ``train``: one step of each of the three stages of training, one window a step: the predictor
  alone, the generator against the predictor, and both together;
- ``predict`` and ``transform`` of two windows, with the trained model as it was saved;
- ``open`` and ``tenth``: ``predict_masked`` under a mask that keeps all, and under one that keeps
  a tenth of the bases, in 20 stretches;
- ``export``: their masks to a bigWig and their elements to a BED file.

Peak memory is that of the process, with Python and the libraries in it (0.4 GiB), or, with
``--device cuda``, that of torch on the GPU, where mixed precision is on (``amp="auto"``). Seconds
are of the wall clock; in brackets, seconds of processor time of all threads, which tell more on a
machine with other work. A step on a short window comes first and is not counted: Numba or Triton
compiles in it.

    python examples/benchmark_long_windows.py
    python examples/benchmark_long_windows.py --backbones caduceus --resolutions 1 --threads 1
    python examples/benchmark_long_windows.py --device cuda
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.pipeline import Pipeline, make_pipeline

from regmask_sk import (
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
    export_masks,
    load_model,
    read_loci,
    save_model,
    simulate_genome,
)
from regmask_sk._benchmark_cells import peak_memory_mb
from regmask_sk.backbones import BACKBONES

WITHOUT_CHECKPOINTING = ("conv", "codon")
WARM_UP = 4_096  # bp
TASKS = ("train", "predict", "transform", "open", "tenth", "export")
TARGETS = {"train": 10.0}  # GiB; 4 for all that follows training


def peak(device: str) -> float:
    """Largest memory that this process has held, or that torch has on a GPU, in GiB."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_memory_mb() * 1e6 / 2**30


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def pipeline_for(case: dict[str, Any], folder: Path, length: int) -> Pipeline:
    """Windows, seven channels and the model of a case."""
    tracks = {name: folder / f"{name}.bw" for name in ("atac", "h3k27ac", "noise")}
    model = RegMaskRegressor(
        backbone=case["backbone"],
        resolution=case["resolution"],
        d_model=case["d_model"],
        n_layers=case["layers"],
        checkpointing=case["backbone"] not in WITHOUT_CHECKPOINTING,
        batch_size=1,
        max_epochs=1,
        generator_epochs=1,
        finetune_epochs=1,
        validation_fraction=0.0,
        device=case["device"],
        random_state=0,
    )
    return make_pipeline(
        TSSWindows(length), SequenceChannels(folder / "genome.fa"), SignalChannels(tracks), model
    )


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Run one task of a case in this process; seconds and peak memory."""
    torch.set_num_threads(case["threads"])
    folder, saved = Path(case["folder"]), Path(case["saved"])
    loci = read_loci(folder / "loci.tsv", tss_base=0)
    task, first = case["task"], loci[:1]
    result: dict[str, Any] = {"task": task}
    if task == "train":
        pipeline_for(case, folder, WARM_UP).fit(first, first["expression"])
        pipeline = pipeline_for(case, folder, case["length"])
        _, result["cpu"] = timed(lambda: pipeline.fit(first, first["expression"]))
        result["steps"] = dict(pipeline[-1].history_[["stage", "seconds"]].to_numpy())
        result["peak"] = peak(case["device"])
        save_model(pipeline, saved)
        return result
    pipeline = load_model(saved)
    model, windows = pipeline[-1], pipeline[:-1].transform(loci)
    tenth = np.zeros((20, windows.length // 20))
    tenth[:, : windows.length // 200] = 1.0
    tasks: dict[str, Callable[[], Any]] = {
        "predict": lambda: model.predict(windows),
        "transform": lambda: model.transform(windows),
        "open": lambda: model.predict_masked(windows, np.ones(windows.length)),
        "tenth": lambda: model.predict_masked(windows, np.resize(tenth, windows.length)),
        "export": lambda: export_masks(
            model, windows, bigwig=folder / "masks.bw", bed=folder / "elements.bed", overwrite=True
        ),
    }
    wall, cpu = timed(tasks[task])
    return result | {"wall": wall / len(loci), "cpu": cpu / len(loci), "peak": peak(case["device"])}


def run_apart(case: dict[str, Any]) -> dict[str, Any]:
    """Run one task of a case in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def told(result: dict[str, Any]) -> str:
    """One line for a task of a case."""
    task, target = result["task"], TARGETS.get(result["task"], 4.0)
    if task == "train":
        seconds = ", ".join(f"{name} {value:.1f}" for name, value in result["steps"].items())
        seconds = f"{seconds} s a step ({result['cpu']:.1f} for all)"
    else:
        seconds = f"{result['wall']:.2f} s a window ({result['cpu']:.2f})"
    verdict = "" if result["peak"] <= target else f", over the {target:.0f} GiB wanted"
    return f"  {task:10}{result['peak']:6.2f} GiB{verdict}   {seconds}"


def main(argv: list[str] | None = None) -> None:
    """Run the cases, print a line for each task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=sorted(BACKBONES), metavar="NAME")
    parser.add_argument("--resolutions", nargs="+", type=int, default=[16], metavar="BP")
    parser.add_argument("--length", type=int, default=200_000, help="bp (default 200000)")
    parser.add_argument("--d-model", type=int, default=128, help="width (default 128)")
    parser.add_argument("--layers", type=int, default=4, help="of each body (default 4)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help='"cpu" (default) or "cuda"')
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=TASKS,
        choices=TASKS,
        metavar="NAME",
        help=f"among {', '.join(TASKS)}; all of them begin with train",
    )
    parser.add_argument("--out", type=Path, help="TSV of the figures")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.case:
        print(json.dumps(run_case(json.loads(arguments.case))))
        return
    unknown = sorted(set(arguments.backbones) - set(BACKBONES))
    if unknown:
        parser.error(f"--backbones {unknown} are not known; expected among {sorted(BACKBONES)}")

    rows = []
    print(
        f"windows of {arguments.length:,} bp, 7 channels, batch 1, d_model {arguments.d_model}, "
        f"{arguments.layers} layers, {arguments.threads} threads, {arguments.device}"
    )
    with tempfile.TemporaryDirectory() as folder:
        simulate_genome(folder, n_chroms=2, n_genes=2, length=arguments.length, random_state=0)
        for backbone in arguments.backbones:
            for resolution in arguments.resolutions:
                ways = "" if backbone in WITHOUT_CHECKPOINTING else ", checkpointing"
                print(f"{backbone}, resolution {resolution}{ways}", flush=True)
                case = {
                    "backbone": backbone,
                    "resolution": resolution,
                    "length": arguments.length,
                    "d_model": arguments.d_model,
                    "layers": arguments.layers,
                    "threads": arguments.threads,
                    "device": arguments.device,
                    "folder": folder,
                    "saved": str(Path(folder, f"{backbone}-{resolution}")),
                }
                for task in ["train", *(name for name in arguments.tasks if name != "train")]:
                    result = run_apart(case | {"task": task})
                    print(told(result), flush=True)
                    rows.append({"backbone": backbone, "resolution": resolution} | result)
    if arguments.out:
        pd.json_normalize(rows).to_csv(arguments.out, sep="\t", index=False)


if __name__ == "__main__":
    main()
