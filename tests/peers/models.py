#!/usr/bin/env python3
"""Our models beside PyTorch's on the same cores: speed, memory, and first that both compute the same.

    cargo build --release -p capstan-tests --bin models
    python tests/peers/models.py --ours target/release/models

Python needs what `reference.py` names. The command makes random checkpoints of published shape in `--dir`
(BLIP-base captioner and filter at 224 and 384 px, CLIP ViT-B/32, BLIP's training network: 6 GB), checks on
small batches that both halves compute the same, then alternates single repetitions of both, `--rounds` times
a row. Training steps of both do not fit into memory together, so there whole processes alternate. It prints a
table of ratios (above 1: ours is faster), median and range over the rounds, and the peak memory of both.

    --tiny          small shapes, to try the command itself: the ratios mean nothing
    --only TEXT     rows whose name contains the text; may be given several times
    --first TEXT    these rows come first; may be given several times
    --device cuda   both halves on a GPU; with --compile a second reference, torch.compile
    --limit-s N     ends after about N seconds, and names the rows that were left out
    --json FILE     the figures of every round as well

Exit codes: 0 all rows ran, 1 a check failed, 3 rows were left out or could not run.
"""

import argparse
import json
import os
import queue
import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

REFERENCE = Path(__file__).with_name("reference.py")
# Limit for one repetition, a load included.
PATIENCE_S = 1800
# When everything ends, by time.perf_counter(); `--limit-s` sets it.
END = float("inf")


class Failed(Exception):
    """A half that ended without a result; the text says why."""


@dataclass
class Row:
    name: str
    command: list
    # What one repetition handles, for rates.
    items: int
    # The ratio that is asked for.
    least: float
    # Whether both halves may be in memory at once.
    together: bool = True


@dataclass
class Half:
    """One program that runs a command, line by line."""

    name: str
    program: list
    # Options behind every command.
    extra: list = field(default_factory=list)
    child: subprocess.Popen = None
    seconds: list = field(default_factory=list)
    peak_mb: float = 0.0

    def start(self, command):
        self.log = Path(f"/tmp/models-{os.getpid()}-{self.name}.log")
        # A pipe is read by a thread of its own, so that a half that hangs is noticed.
        self.child = subprocess.Popen(self.program + command + self.extra, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=self.log.open("w"), text=True, env=os.environ | {"RUST_BACKTRACE": "0"})
        self.lines = queue.Queue()
        threading.Thread(target=self.read, args=(self.child.stdout, self.lines), daemon=True).start()

    @staticmethod
    def read(stdout, lines):
        for line in stdout:
            lines.put(line)
        lines.put(None)

    def line(self):
        try:
            line = self.lines.get(timeout=min(PATIENCE_S, max(1.0, END - time.perf_counter())))
        except queue.Empty:
            self.stop()
            raise Failed(f"{self.name}: no answer in the time that was left")
        if line is None:
            self.child.wait()
            raise Failed(f"{self.name}: {self.complaint() or f'ended with {self.child.returncode}'}")
        return json.loads(line)

    def complaint(self):
        """The line of the log that says what is wrong."""
        lines = [text.strip() for text in self.log.read_text().splitlines() if text.strip()]
        panics = [at + 1 for at, text in enumerate(lines[:-1]) if "panicked at" in text]
        errors = [at for at, text in enumerate(lines) if text.lower().startswith("error")]
        said = panics or errors or [len(lines) - 1]
        return lines[said[0]][:300] if lines else ""

    def ready(self):
        line = self.line()
        assert "ready" in line, line

    def repetition(self):
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        self.seconds.append(self.line()["seconds"])

    def end(self):
        """The result of a command; the process is gone afterwards."""
        if self.child.stdin and not self.child.stdin.closed:
            self.child.stdin.close()
        line = self.line()
        while "result" not in line:
            line = self.line()
        self.child.wait()
        self.peak_mb = max(self.peak_mb, line["peak_rss_mb"])
        return line["result"]

    def result(self, command):
        self.start(command)
        return self.end()

    def stop(self):
        if self.child and self.child.poll() is None:
            self.child.kill()
            self.child.wait()


def rows(a):
    small, large = (64, 96) if a.tiny else (224, 384)
    model = lambda name: ["--model", str(a.dir / name)]
    file = lambda option, name: [f"--{option}", str(a.dir / f"{name}.safetensors")]
    tokens = ["--tokens", str(a.tokens)]
    found = []
    for size in (small, large):
        for batch in (1, 8, 32):
            for mode in ("greedy", "nucleus") + (("beam",) if batch == 8 else ()):
                command = ["caption", "--mode", mode] + model(f"captioner-{size}") + file("pixels", f"pixels-{size}-{batch}")
                found.append(Row(f"caption {mode}, {size} px, batch {batch}", command + tokens, batch, 1.2))
        cold = ["cold", "--image", str(a.dir / "one.jpg")] + model(f"captioner-{size}") + tokens
        found.append(Row(f"first caption of a cold process, {size} px", cold, 1, 1.5, together=False))
    for size, pictures in ((small, 1), (small, 8), (large, 8)):
        command = ["match"] + model(f"filter-{size}") + file("pixels", f"pixels-{size}-{pictures}")
        command += file("texts", f"texts-{2 * pictures}")
        name = f"match, {size} px, {pictures} pictures of 2 texts"
        found.append(Row(name, command, 2 * pictures, 1.2))
    embed = ["embed"] + model("clip") + file("pixels", f"pixels-{small}-32")
    found.append(Row("embed, CLIP ViT-B/32, batch 32", embed, 32, 1.1))
    for kind, name, batch, folder in (("clip", "CLIP ViT-B/32", 64, "open-clip"), ("blip", "BLIP-base ITC + ITM + LM", 8, "released")):
        command = ["train", "--kind", kind] + model(folder) + file("batch", f"{kind}-batch-{batch}")
        found.append(Row(f"train {name}, batch {batch}", command, batch, 1.0, together=False))
    if a.only:
        found = [row for row in found if any(text in row.name for text in a.only)]
    # Sorting keeps the order of equal rows.
    first = a.first or []
    return sorted(found, key=lambda row: next((at for at, text in enumerate(first) if text in row.name), len(first)))


# ---- do both compute the same?


def checks(a, asked):
    """Name and function of each check that the asked rows depend on."""
    small = 64 if a.tiny else 224
    model = lambda name: ["--model", str(a.dir / name)]
    file = lambda option, name: [f"--{option}", str(a.dir / f"{name}.safetensors")]
    pixels = file("pixels", f"pixels-{small}-2")
    captioner = model(f"captioner-{small}") + pixels
    once = ["--reps", "0"] + a.run
    tokens = ["--tokens", str(a.tokens)]
    uses = lambda *words: any(word in row.name for row in asked for word in words)
    found = []
    for mode in ("greedy", "beam"):
        if uses(f"caption {mode}", "cold"):
            command = ["caption", "--mode", mode] + captioner + tokens + once
            found.append((f"{mode}: tokens", lambda o, r, c=command: same_ids(a, o.result(c)["ids"], r.result(c)["ids"])))
    if uses("caption nucleus"):
        command = ["filtered"] + captioner + a.run
        found.append(("nucleus: filtered distributions", lambda o, r, c=command: same_distributions(a, o, r, c)))
    if uses("match"):
        command = ["match"] + model(f"filter-{small}") + pixels + file("texts", "texts-4") + once
        found.append(("match: logits", lambda o, r, c=command: close(o.result(c)["logits"], r.result(c)["logits"], a.bound)))
    if uses("embed"):
        command = ["embed"] + model("clip") + pixels + once
        found.append(("embed: features", lambda o, r, c=command: close(o.result(c)["features"], r.result(c)["features"], a.bound)))
    for kind, folder in (("clip", "open-clip"), ("blip", "released")):
        if uses(f"train {kind.upper()}"):
            # Three steps on two samples, whose hard negatives are given.
            command = ["train", "--kind", kind] + model(folder) + file("batch", f"{kind}-batch-2") + ["--reps", "2"] + a.run
            found.append((f"train {kind}: losses of three steps",
                          lambda o, r, c=command: close(o.result(c)["losses"], r.result(c)["losses"], 10 * a.bound)))
    return found


def same_ids(a, ours, theirs):
    if ours == theirs:
        return f"the same {len(ours)} texts of {len(ours[0])} tokens"
    if a.exact:
        raise Failed(f"ours {ours}, PyTorch's {theirs}")
    pairs = [pair for own, other in zip(ours, theirs) for pair in zip(own, other)]
    same = sum(own == other for own, other in pairs)
    return f"{same} of {len(pairs)} tokens are the same; rounding to TF32 or bf16 swaps near ties"


def close(ours, theirs, bound):
    """Largest difference, as a share of the largest value."""
    if len(ours) != len(theirs):
        raise Failed(f"{len(ours)} values, PyTorch has {len(theirs)}")
    largest = max(abs(x) for x in theirs)
    worst = max(abs(x - y) for x, y in zip(ours, theirs)) / largest
    if not worst <= bound:
        raise Failed(f"apart by {worst:.1e} of the largest value, more than {bound:.0e}")
    return f"apart by {worst:.1e} of the largest value"


def same_distributions(a, ours, reference, command):
    """After every token of a forced text both halves draw from the same distribution."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    low, high, first = (10, 100, 158) if a.tiny else (1000, 30000, 30522)
    prefix = np.random.default_rng(3).integers(low, high, (2, a.tokens))
    prefix[:, 0] = first
    path = a.dir / "prefix.safetensors"
    save_file({"input_ids": prefix.astype(np.int64)}, path)
    found = []
    for half in (ours, reference):
        out = a.dir / f"filtered-{half.name.split()[0]}.safetensors"
        half.result(command + ["--prefix", str(path), "--out", str(out)])
        found.append(load_file(out)["probabilities"].astype(np.float64))
    # Total variation; a token at the edge of the nucleus may be in one set alone.
    apart = np.abs(found[0] - found[1]).sum(1) / 2
    if not apart.max() <= a.bound:
        raise Failed(f"total variation {apart.max():.1e}, more than {a.bound:.0e}")
    return f"total variation at most {apart.max():.1e} over {len(apart)} positions"


# ---- measurements


def measure(row, halves, a):
    for half in halves:
        half.seconds, half.peak_mb = [], 0.0
    try:
        if row.command[0] == "cold":
            for _ in range(a.rounds):
                for half in halves:
                    begin = time.perf_counter()
                    half.result(row.command + a.run)
                    half.seconds.append(time.perf_counter() - begin)
        elif row.together:
            command = row.command + a.run + ["--paced", "--reps", "1000"]
            for half in halves:
                half.start(command)
                half.ready()
            for _ in range(a.rounds):
                for half in halves:
                    half.repetition()
            for half in halves:
                half.end()
        else:
            command = row.command + a.run + ["--paced", "--reps", "1000"]
            for _ in range(a.rounds):
                for half in halves:
                    half.start(command)
                    half.ready()
                    half.repetition()
                    half.end()
    finally:
        for half in halves:
            half.stop()


def figures(row, halves):
    ours, *others = halves
    result = {"row": row.name, "items": row.items, "least": row.least,
              "ours": {"seconds": ours.seconds, "peak_mb": ours.peak_mb}}
    for other in others:
        ratios = [theirs / own for own, theirs in zip(ours.seconds, other.seconds)]
        result[other.name] = {"seconds": other.seconds, "peak_mb": other.peak_mb, "ratios": ratios}
    return result


def table(results, references):
    print("\n| Row | items/s, ours | " + " | ".join(f"{name}: items/s | ratio, median (range) | peak MB, ours / theirs" for name in references)
          + " | asked |")
    print("|---|---|" + "---|---|---|" * len(references) + "---|")
    for result in results:
        rate = lambda half: f"{result['items'] / statistics.median(half['seconds']):.3g}"
        cells = []
        for name in references:
            half = result[name]
            ratios = half["ratios"]
            cells += [rate(half), f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
                      f"{result['ours']['peak_mb']:.0f} / {half['peak_mb']:.0f}"]
        print(f"| {result['row']} | {rate(result['ours'])} | " + " | ".join(cells) + f" | {result['least']} |")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the program `models`")
    parser.add_argument("--dir", type=Path, default=Path("/tmp/capstan-models"), help="checkpoints and inputs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", action="append")
    parser.add_argument("--first", action="append")
    parser.add_argument("--limit-s", type=float, default=float("inf"))
    parser.add_argument("--check-only", action="store_true")
    parser.add_argument("--remove", action="store_true", help="removes --dir at the end")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    a.run = ["--device", a.device, "--dtype", a.dtype, "--threads", str(a.threads)]
    a.exact = a.device == "cpu" and a.dtype == "f32"
    # On a GPU both halves multiply in TF32; bf16 keeps 8 bits.
    a.bound = {"f32": 1e-3 if a.device == "cpu" else 1e-2}.get(a.dtype, 1e-1)
    return a


def main():
    global END
    a = parse()
    END = time.perf_counter() + a.limit_s
    cores = sorted(os.sched_getaffinity(0))[: a.threads] if a.device == "cpu" else os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    reference = [sys.executable, str(REFERENCE)]
    asked = rows(a)
    if not asked:
        sys.exit("no row has such a name")
    needed = {Path(row.command[row.command.index("--model") + 1]).name for row in asked}
    small = 64 if a.tiny else 224
    needed |= {f"captioner-{small}"} if any(row.name.startswith(("caption", "first")) for row in asked) else set()
    needed |= {f"filter-{small}"} if any(row.name.startswith("match") for row in asked) else set()
    make = ["make", "--dir", str(a.dir), "--only", ",".join(sorted(needed))] + (["--tiny"] if a.tiny else [])
    subprocess.run(reference + make, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ours = Half("ours", [a.ours])
    tf32 = ["--tf32"] if a.device != "cpu" else []
    halves = [Half("PyTorch", reference, tf32)]
    if a.compile:
        halves.append(Half("torch.compile", reference, tf32 + ["--compile"]))
    print(f"on {len(cores)} cores, device {a.device}, {a.dtype}; {time.strftime('%Y-%m-%d')}")
    wrong, left, results = [], [], []
    for name, check in checks(a, asked):
        try:
            print(f"check {name}: {check(ours, halves[0])}", flush=True)
        except Failed as error:
            wrong.append(name)
            print(f"check {name}: FAILED: {error}", flush=True)
    for row in [] if a.check_only else asked:
        if time.perf_counter() > END:
            left.append(f"{row.name}: no time left")
            continue
        try:
            measure(row, [ours] + halves, a)
            results.append(figures(row, [ours] + halves))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
        except Failed as error:
            left.append(f"{row.name}: {error}")
    if results:
        table(results, [half.name for half in halves])
    if a.json:
        a.json.write_text("".join(json.dumps(result) + "\n" for result in results))
    for row in left:
        print(f"left out: {row}")
    for name in wrong:
        print(f"not the same: {name}")
    if a.remove:
        shutil.rmtree(a.dir)
    sys.exit(1 if wrong else 3 if left else 0)


if __name__ == "__main__":
    main()
