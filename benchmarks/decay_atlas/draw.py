"""Draw results.jsonl: docs/images/decay_atlas.svg, share_left.svg and the table of docs/choosing-a-decay.md."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
PAGE = DOCS / "choosing-a-decay.md"
BEGIN, END = "<!-- decay atlas: made by benchmarks/decay_atlas/draw.py -->", "<!-- end of the decay atlas -->"


def read():
    """(batch, updates) -> list of rows, one a seed."""
    columns = defaultdict(list)
    for line in (HERE / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        row["by_decay"] = {one["decay"]: one for one in row["decays"]}
        columns[row["batch"], row["updates"]].append(row)
    return dict(sorted(columns.items()))


def mean(rows, decay):
    return float(np.mean([row["by_decay"][decay]["is_training_false"] for row in rows]))


def auto(rows):
    """What `--bn-decay auto` ends with: recalibrated where the run is too short for any decay."""
    from finetune.batchnorm.decay import FEW_UPDATES, auto_decay

    value = []
    for row in rows:
        decay = auto_decay(row["updates"] // row["epochs"], row["updates"])
        few = row["updates"] < FEW_UPDATES
        value.append(row["recalibrated"] if few else row["by_decay"][decay]["is_training_false"])
    return float(np.mean(value)), decay, few


def decays_of(columns):
    from run import DECAYS

    return [d for d in DECAYS if all(d in row["by_decay"] for rows in columns.values() for row in rows)]


def table(columns):
    decays = decays_of(columns)
    lines = [
        "| batch | updates | " + " | ".join(f"{d:g}" for d in decays) + " | auto | is_training=True |",
        "|---:|---:|" + "---:|" * (len(decays) + 2),
    ]
    for (batch, updates), rows in columns.items():
        values = [mean(rows, d) for d in decays]
        best = max(values)
        cells = [f"**{100 * v:.1f}**" if v == best else f"{100 * v:.1f}" for v in values]
        value, decay, few = auto(rows)
        how = "recalibrated" if few else f"{decay:g}"
        true = np.mean([row["is_training_true"] for row in rows])
        lines.append(
            f"| {batch} | {updates} | " + " | ".join(cells) + f" | {100 * value:.1f} ({how}) | {100 * true:.1f} |"
        )
    return "\n".join(lines)


def draw_atlas(columns):
    batches = sorted({batch for batch, _ in columns})
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    plots = figure.subplots(1, len(batches), sharey=True)
    for plot, batch in zip(np.atleast_1d(plots), batches, strict=True):
        shown = {updates: rows for (b, updates), rows in columns.items() if b == batch}
        colours = [f"C{i}" for i in range(len(shown))]
        for colour, (updates, rows) in zip(colours, shown.items(), strict=True):
            decays = decays_of(columns)
            plot.plot(
                [1 - d for d in decays], [100 * mean(rows, d) for d in decays], "o-", ms=3, color=colour, label=updates
            )
            true = 100 * np.mean([row["is_training_true"] for row in rows])
            plot.axhline(true, color=colour, lw=0.8, ls=":")
        plot.set_xscale("log")
        plot.invert_xaxis()
        plot.set_xticks([1 - d for d in decays], [f"{d:g}" for d in decays], fontsize=8, rotation=45)
        plot.minorticks_off()
        plot.set_title(f"batches of {batch}", fontsize=10)
        plot.set_xlabel("BN decay")
        plot.grid(alpha=0.2)
    np.atleast_1d(plots)[0].set_ylabel("test accuracy, %\n(dotted: is_training=True)")
    np.atleast_1d(plots)[-1].legend(title="updates", fontsize=8, title_fontsize=8)
    save(figure, "decay_atlas.svg")


def draw_share(columns):
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    plot = figure.subplots()
    for batch in sorted({batch for batch, _ in columns}):
        points = [
            (one["predicted"], one["alpha"]) for (b, _), rows in columns.items() if b == batch for row in rows
            for one in row["decays"]
        ]  # fmt: skip
        plot.plot(*zip(*points, strict=True), "o", ms=3, alpha=0.6, label=f"batches of {batch}")
    plot.plot([0, 1], [0, 1], color="grey", lw=0.8)
    plot.set_xlabel("share of source statistics left: decay^n")
    plot.set_ylabel("share fitted from the arrays")
    plot.legend(fontsize=8)
    save(figure, "share_left.svg")


def draw_powers():
    """decay^n, which needs no measurement: what is left of the start after n updates."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    plot = figure.subplots()
    updates = np.logspace(0, np.log10(30_000), 300)
    for decay in (0.9, 0.95, 0.99, 0.997, 0.999, 0.9997):
        plot.plot(updates, 100 * decay**updates, label=f"{decay:g}")
    plot.axhline(1, color="grey", lw=0.8, ls="--")
    plot.set_xscale("log")
    plot.set_xlabel("updates")
    plot.set_ylabel("source statistics left, %")
    plot.legend(fontsize=8, title="decay")
    save(figure, "decay_powers.svg")


def save(figure, name):
    (DOCS / "images").mkdir(exist_ok=True)
    figure.savefig(DOCS / "images" / name, metadata={"Date": None})


def worst(columns):
    """The largest distance of auto to the best decay, in points, and of alpha to decay^n."""
    decays = decays_of(columns)
    gap = max(max(mean(rows, d) for d in decays) - auto(rows)[0] for rows in columns.values())
    off = max(abs(o["alpha"] - o["predicted"]) for rows in columns.values() for row in rows for o in row["decays"])
    return 100 * gap, off


def main():
    columns = read()
    draw_atlas(columns)
    draw_share(columns)
    draw_powers()
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(columns)}\n{END}{after}")
    gap, off = worst(columns)
    print(f"auto is at most {gap:.2f} points below the best decay; alpha is at most {off:.3f} from decay^n")


if __name__ == "__main__":
    main()
