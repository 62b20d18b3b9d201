"""What the environment of a CPU job (`tasks.jobs.launch`) is worth: one training step, alone and beside a busy one.

Run: `python benchmarks/cpu_environment.py [--threads 2]`
Each setting is timed in a process of its own, in turn, several rounds; printed are medians and the ratio to torch's own
defaults of the same round. Results stand in docs/benchmarks.md.
"""

import argparse
import os
import statistics
import subprocess
import sys

STEP = """
import time, torch
from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
torch.manual_seed(0)
model = ConceptModelForMaskedLM(ConceptConfig(vocab_size=4096, hidden_size=128, num_concepts=32, num_layers=2,
    num_attention_heads=4, intermediate_size=256, max_sequence_length=128))
ids = torch.randint(5, 4096, (64, 128))
labels = torch.where(torch.rand(64, 128) < 0.15, ids, -100)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
def step():
    model(ids, labels=labels).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
step()
started, steps = time.monotonic(), 0
while time.monotonic() - started < 4:
    step()
    steps += 1
print(1000 * (time.monotonic() - started) / steps)
"""
BUSY = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
ALLOCATOR = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=67108864"
SETTINGS = {
    "torch's defaults": {},
    "waiting threads sleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "and memory is kept": {"OMP_WAIT_POLICY": "PASSIVE", "GLIBC_TUNABLES": ALLOCATOR},
}


def milliseconds_per_step(setting: dict[str, str], threads: int) -> float:
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GLIBC_TUNABLES")}
    environment = kept | setting | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print("| beside | setting | ms per step | times the defaults' speed |")
    print("|---|---|---|---|")
    for beside in ("nothing", "one busy process"):
        rounds = []
        for _ in range(arguments.rounds):
            busy = subprocess.Popen([sys.executable, "-c", BUSY]) if beside != "nothing" else None
            rounds.append({name: milliseconds_per_step(value, arguments.threads) for name, value in SETTINGS.items()})
            if busy is not None:
                busy.kill()
                busy.wait()
        for name in SETTINGS:
            times = [one[name] for one in rounds]
            ratios = [one["torch's defaults"] / one[name] for one in rounds]
            print(
                f"| {beside} | {name} | {statistics.median(times):.0f} | {statistics.median(ratios):.2f} |", flush=True
            )


if __name__ == "__main__":
    main()
