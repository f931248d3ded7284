"""What `import pixelwise` costs over `import torch`: medians of fresh processes, one kind after the other.

    python bench/import_time.py [rounds]

The target is 0.25 s. Both files caches and bytecode are warm: a round before the first is not counted.
"""

import statistics
import subprocess
import sys

TARGET = 0.25  # seconds
TIMED = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module: str) -> float:
    """Time of one import in a process of its own."""
    code = TIMED.format(module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    times: dict[str, list[float]] = {"torch": [], "pixelwise": []}
    for number in range(rounds + 1):
        for module, taken in times.items():
            taken.append(seconds(module))
            if number == 0:
                taken.clear()
    torch, pixelwise = (statistics.median(taken) for taken in times.values())
    over = statistics.median(b - a for a, b in zip(*times.values(), strict=True))
    verdict = "PASS" if over <= TARGET else "MISSED"
    print(f"import torch {torch:.3f} s, import pixelwise {pixelwise:.3f} s (medians of {rounds})")
    print(f"import pixelwise over import torch: {over:.3f} s, target {TARGET:.2f} s: {verdict}")


if __name__ == "__main__":
    main()
