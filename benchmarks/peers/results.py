"""What was measured, as JSON, as a page, and against an earlier day."""

import json
import os

FIGURES = {"seconds": "s", "median": "images/s", "gib": "GiB", "ms_an_image": "ms an image"}


def read(path):
    """An earlier `results.json`, or none yet."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {"machine": {}, "rows": {}}


def write(found, path, page):
    """Both files, each whole or not at all."""
    for target, content in ((path, json.dumps(found, indent=1) + "\n"), (page, markdown(found))):
        temporary = target.with_name(target.name + ".tmp")
        temporary.write_text(content)
        os.replace(temporary, target)


def text(name, row):
    """A row as lines."""
    lines = [f"{name}: {row['what']}"]
    for contender, its in row["contenders"].items():
        if "failed" in its:
            lines.append(f"  {contender:24} failed: {its['failed']}")
            continue
        figure = next(key for key in FIGURES if key in its)
        words = [f"  {contender:24} {its[figure]:8.2f} {FIGURES[figure]}"]
        if "loss" in its:
            words.append(f"loss {its['loss']:.3f}")
        if "ours_over_it" in its:
            words.append(f"ours is {its['ours_over_it']:.3f} x it")
        if "share" in its:
            words.append(f"{its['share']:.1%} of the first")
        lines.append(", ".join(words))
    verdict = judged(row)
    if verdict:
        lines.append(f"  {verdict}")
    return "\n".join(lines)


def judged(row):
    """One sentence about the goals of a row, "" where it has none."""
    its = {name: one for name, one in row["contenders"].items() if "failed" not in one}
    if row["unit"] == "images/s":
        peers = {name: one["ours_over_it"] for name, one in its.items() if name != "finetune" and "ours_over_it" in one}
        if not peers:
            return ""
        best = min(peers, key=peers.get)
        reached = row["peak_gflops"] and its["finetune"]["median"] * row["gflop_an_image"] / row["peak_gflops"]
        return (
            f"best peer: {best}; ours is {peers[best]:.2f} x it, goal {row['goal']:g}; "
            f"{row['gflop_an_image']:g} GFLOP an image, {reached:.0%} of the matrix product's {row['peak_gflops']:g} "
            "GFLOP/s"
        )
    if "goals" in row:
        keras = its.get("Keras, as it comes", {}).get("ours_over_it")
        torch = [one["ours_over_it"] for name, one in its.items() if name.startswith("PyTorch")]
        words = [f"{keras:.4f} of Keras's time, goal {row['goals'][0]:.3f}"] if keras else []
        if torch:
            words.append(f"{max(torch):.4f} of the best PyTorch's, goal {row['goals'][1]:.3f}")
        return "; ".join(words)
    if "exponent_in_pixels" in row:
        return f"time grows as pixels^{row['exponent_in_pixels']:.2f}, goal {row['goal']:g}"
    return f"goal {row['goal']:g}"


def markdown(found):
    """`RESULTS.md`."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine.get("versions", {}).items())
    lines = [
        "# Results",
        "",
        "Written by `python -m benchmarks.peers`; `results.json` has every round. All contenders of a row run in turn",
        "on the same images; a ratio is the median over the rounds. Read ratios: such machines are noisy.",
        "",
        f"{machine.get('date')}, {machine.get('processor')}, {machine.get('cores')} cores "
        f"({', '.join(machine.get('instructions', []))}), {versions}.",
    ]
    for name, row in found["rows"].items():
        lines += ["", f"## {name}", "", f"{row['what']}." + (f" {row['note']}." if "note" in row else ""), ""]
        lines += [f"| contender | {row['unit']} | ours over it | loss |", "|---|---|---|---|"]
        for contender, its in row["contenders"].items():
            if "failed" in its:
                lines.append(f"| {contender} | failed: {its['failed']} | | |")
                continue
            figure = next(key for key in FIGURES if key in its)
            ratio = its.get("ours_over_it", its.get("share"))
            shown = "" if ratio is None else f"{ratio:.3f}"
            loss = f"{its['loss']:.3f}" if "loss" in its else ""
            lines.append(f"| {contender} | {its[figure]:.2f} | {shown} | {loss} |")
        if judged(row):
            lines += ["", judged(row) + "."]
    return "\n".join(lines) + "\n"


def comparison(before, now):
    """Each figure of `now` over that of `before`, a line each."""
    lines = [f"against {before['machine'].get('date')}:"]
    for name, row in now["rows"].items():
        for contender, its in row["contenders"].items():
            other = before["rows"].get(name, {}).get("contenders", {}).get(contender, {})
            for figure in FIGURES:
                if figure in its and figure in other:
                    lines.append(f"  {name}, {contender}: {its[figure] / other[figure]:.2f} x")
    return "\n".join(lines)
