"""What was measured, as tables."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def show(found: dict[str, Any], console: Console | None = None) -> None:
    console = console or Console(width=180)
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    console.print(
        f"{found['processor']}, {found['threads']} thread(s), {found['device']}, load {found['load']:.1f}"
    )
    console.print(
        f"{versions}, commit {found['git_commit']}, at best {found['best_gflops']:.0f} GFLOP/s", style="dim"
    )
    if found["cases"]:
        console.print(times(found), work(found))
        console.print(
            "omniglot, mini: random images of that shape. CPU: time of this process. "
            "compiled: on a GPU the captured step, unless trainer.compile=true."
        )
    if "growth" in found:
        console.print(growth(found["growth"]))


def times(found: dict[str, Any]) -> Table:
    """Milliseconds a task; the ratio is of CPU times where both ran on the CPU."""
    table = Table(title="ms a task", box=box.SIMPLE_HEAD)
    table.add_column("case", no_wrap=True)
    heads = (
        "batch",
        "train",
        "10–90%",
        "CPU",
        "in a run",
        "CPU",
        "draw",
        "test",
        "test CPU",
        "JAX",
        "CPU",
        "ours/JAX",
        "JAX's compile s",
        "compiled CPU",
        "compile s",
        "compiled/JAX",
    )
    for head in heads:
        table.add_column(head, justify="right")
    for row in found["cases"]:
        ms = row["ms_per_task"]
        train, jax = ms["train"], ms.get("jax")
        spread = f"{number(train['p10'])}–{number(train['p90'])}"
        ours = [number(train["median"]), spread, number(train["cpu"])]
        others = [number(ms[name][what]) for name in ("lightning",) for what in ("median", "cpu")]
        others += [number(ms["draw"]["cpu"]), number(ms["test"]["median"]), number(ms["test"]["cpu"])]
        if jax:
            others += [number(jax["median"]), number(jax["cpu"]), f"{train['cpu'] / jax['cpu']:.2f}"]
            others += [f"{row['jax_compile_seconds']:.1f}"]
        if quick := ms.get("compiled"):
            others += [""] * (0 if jax else 4) + [number(quick["cpu"]), f"{row['compile_seconds']:.1f}"]
            others += [f"{quick['cpu'] / jax['cpu']:.2f}"] if jax else []
        table.add_row(row["name"], str(row["meta_batch_size"]), *ours, *others)
    return table


def work(found: dict[str, Any]) -> Table:
    """What a training step does, and how near that is to the best the machine can do."""
    table = Table(title="a training step, counted", box=box.SIMPLE_HEAD)
    table.add_column("case")
    heads = (
        "Mflop a task",
        "MB touched a task",
        "tanh … a task",
        "ops",
        "kernels",
        "µs CPU a kernel",
        "peak MB",
        "GFLOP/s",
        "of best",
    )
    for head in heads:
        table.add_column(head, justify="right")
    for row in found["cases"]:
        step, tasks = row["of_a_step"], row["meta_batch_size"]
        on_cpu = found["device"] == "cpu"
        ms = tasks * row["ms_per_task"]["train"]["cpu" if on_cpu else "median"]
        gflops = step["flops"] / ms / 1e6
        table.add_row(
            row["name"],
            *(number(step["flops"] / tasks / 1e6), number(step["bytes"] / tasks / 1e6)),
            *(f"{step['transcendental'] // tasks:,}", f"{step['ops']:,}", f"{step['kernels']:,}"),
            *(number(1e3 * ms / step["kernels"]), number(step["peak"] / 1e6)),
            *(number(gflops), f"{100 * gflops / found['best_gflops']:.1f}%"),
        )
    return table


def growth(lines: list[dict[str, Any]]) -> Table:
    """Each setting's points; a step grows as the setting to the "power", from the first to the last point."""
    table = Table(title="growth of a training step", box=box.SIMPLE_HEAD)
    for head in ("case", "setting", "values", "CPU ms a step", "power", "peak MB", "power", "kernels"):
        table.add_column(head, justify="left" if head in ("case", "setting") else "right")
    for line in lines:
        points = line["points"]

        def cells(name: str, of: list[dict[str, Any]] = points) -> str:
            return "  ".join(number(point[name]) for point in of)

        row = [line["case"], line["setting"], "  ".join(str(p["value"]) for p in points)]
        for name in ("cpu_ms", "peak_mb"):
            row += [cells(name), f"{line['powers'][name]:.2f}"]
        table.add_row(*row, cells("kernels"))
    return table


def number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
