"""CPU time and memory of a training task with Conv-4 and five queries a class: python costs.py"""

from rich.progress import track

from benchmarks import cases
from benchmarks.clock import take_turns
from benchmarks.counts import count

METHODS = {
    **{"protonet": ["protonet"], "maml": ["maml"], "last layer": ["oplstm"], "all layers": ["oplstm_all"]},
    "all layers, one pass": ["oplstm_all", "method.passes=1"],
}
IMAGES = {"28×28, grey": [], "84×84, color": ["data.size=84", "data.channels=3"]}
CASES = [(images, shots, name) for images in IMAGES for shots in (1, 5) for name in METHODS]


def main() -> None:
    print("| images | shots | method | seconds | peak MB |\n|---|---|---|---|---|")
    for images, shots, name in track(CASES):
        method, *settings = [*METHODS[name], *IMAGES[images]]
        settings += ["family=omniglot_conv4", "backbone=conv4", f"shots={shots}", "method.meta_batch_size=1"]
        step = cases.build(f"omniglot/{method}", settings=settings).train()
        peak = count(step).peak / 1e6
        seconds = min(take_turns({name: step}, 1)[name].cpu)
        print(f"| {images} | {shots} | {name} | {seconds:.3f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
