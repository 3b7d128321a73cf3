"""`X-report.html`: what a person reads of a case. One file that prints: pictures, volumes, warnings, provenance.

It holds no script and loads nothing; its security policy forbids both.
"""

from base64 import b64encode
from html import escape
from io import BytesIO
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rediffinet.io.preview import encode_preview, outlined, shading, shown_contrasts
from rediffinet.io.segmented import Segmented

LEVELS = 8
COLUMNS = 4
BAR = 20
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
@page { size: A4; margin: 15mm }
body { font: 11pt/1.4 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 52rem; margin: 1.5rem auto;
  padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0 }
h2 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; break-after: avoid }
p, figcaption { margin: .3rem 0 }
.use, figcaption { color: #4d5560; font-size: .9rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; break-inside: avoid }
th, td { border-bottom: 1px solid #c9ced6; padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top;
  font-weight: normal }
th { color: #4d5560; white-space: nowrap }
.numbers th:not(:first-child), .numbers td { text-align: right; padding: .15rem 0 .15rem 1.4rem }
td { overflow-wrap: anywhere }
.files td:not(:last-child) { white-space: nowrap }
.warnings { border-left: 4px solid #b77900; background: #fff3d6; padding: .4rem .9rem; print-color-adjust: exact;
  break-inside: avoid }
.warnings ul { margin: .2rem 0; padding-left: 1.1rem }
code { font-size: .9em }
figure { margin: 0; break-inside: avoid }
img { max-width: 100%; background: #000; print-color-adjust: exact }
@media print {
  body { margin: 0; padding: 0; font-size: 9.5pt }
  img { max-height: 88mm }
}
"""


def encode_html_report(result: Segmented) -> bytes:
    """The report of a case as one HTML file (UTF-8), its pictures inside."""
    report = result.report.to_dict()
    case = escape(report["case"])
    shown = shown_contrasts(result.task, result.report.missing_contrasts)
    planes = f"Three planes through the largest lesion of {case}: {', '.join(shown)}"
    sections = [
        _warnings(report),
        _volumes(report),
        _figure(encode_preview(result), f"{planes} and the probability of a wrong label."),
        _figure(_levels(result), f"Axial planes of {shown[0]} through the tumour, from below, with both outlines."),
        _provenance(report),
        _inputs(report),
    ]
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{case} – rediff</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{case}</h1>
<p class="use">{escape(report["intended_use"])}</p>
{"".join(sections)}
</body>
</html>
"""
    return page.encode(errors="replace")


def _warnings(report: dict[str, Any]) -> str:
    warnings = report["warnings"]
    if not warnings:
        return "<h2>Warnings</h2><p>None.</p>"
    items = "".join(f"<li><code>{escape(one['code'])}</code> {escape(one['message'])}</li>" for one in warnings)
    return f'<div class="warnings"><h2>Warnings ({len(warnings)})</h2><ul>{items}</ul></div>'


def _volumes(report: dict[str, Any]) -> str:
    before, after = report["volumes_ml"]["baseline"], report["volumes_ml"]["refined"]
    margin = report["margin"]
    flipped, doubt = report["flipped_voxels"], report["uncertainty"]
    heads = ["Region", "Segmentation"] if before is None else ["Region", "Baseline", "Refined", "Change"]
    heads += [] if flipped is None else ["Voxels changed"]
    heads += [] if margin is None else [f"{margin['share']:.0%} margin, mm"]
    rows = []
    for region, ml in after.items():
        cells = (
            [f"{ml:.1f}"] if before is None else [f"{before[region]:.1f}", f"{ml:.1f}", f"{ml - before[region]:+.1f}"]
        )
        cells += [] if flipped is None else [str(flipped[region])]
        if margin is not None:
            width = margin["median_mm"][region]
            cells.append("–" if width is None else f"±{width:.1f}")
        rows.append([region, *cells])
    labels = ", ".join(f"{value} {name}" for name, value in sorted(report["labels"].items(), key=lambda one: one[1]))
    return (
        f"<h2>Volumes in ml</h2>{_table(heads, rows, 'numbers')}"
        f"<p>Probability above 25 % of a wrong label: {doubt['uncertain_ml']:.1f} ml; its mean in the tumour: "
        f"{100 * doubt['mean_in_tumour']:.0f} %. Labels: {escape(labels)}.</p>"
    )


def _provenance(report: dict[str, Any]) -> str:
    bundle, engine, sampling, baseline = (report[key] for key in ("bundle", "engine", "sampling", "baseline"))
    drawn = (
        f"{sampling['samples']} samples × {sampling['steps']} steps ({sampling['scheduler']}), seed {sampling['seed']}"
    )
    given = f", {PurePath(baseline['path']).name}" if baseline["path"] else ""
    rows = [
        ["Bundle", f"{bundle['name']} ({bundle['model']}), SHA-256 {bundle['sha256']}"],
        ["Baseline from", f"{baseline['source']}{given}"],
        [
            "Engine",
            f"{engine['used']} {engine['version']}: {engine['provider']}, {engine['device']}, {engine['precision']}",
        ],
        ["Sampling", f"{drawn}, {sampling['windows']} windows" if sampling["samples"] else "none"],
        ["Seconds", ", ".join(f"{stage} {spent:.1f}" for stage, spent in report["seconds"].items() if spent)],
        ["Peak memory", f"{report['peak_rss_mb']:.0f} MB"],
        ["Program", f"rediffinet {report['rediffinet']}, {report['platform']}"],
    ]
    return f"<h2>What ran</h2>{_table([], rows)}"


def _inputs(report: dict[str, Any]) -> str:
    rows = [
        [
            one["contrast"],
            PurePath(one["path"]).name,
            " × ".join(map(str, one["shape"])),
            " × ".join(f"{mm:.3g}" for mm in one["spacing"]),
            one["sha256"],
        ]
        for one in report["inputs"]
    ]
    return f"<h2>Images</h2>{_table(['Contrast', 'File', 'Voxels', 'mm', 'SHA-256'], rows, 'files')}"


def _table(heads: list[str], rows: list[list[str]], kind: str = "") -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(text)}</td>" for text in rest)}</tr>'
        for first, *rest in rows
    )
    return f'<table class="{kind}">{f"<thead><tr>{head}</tr></thead>" if heads else ""}<tbody>{body}</tbody></table>'


def _figure(png: bytes, caption: str) -> str:
    source = f"data:image/png;base64,{b64encode(png).decode()}"
    return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _levels(result: Segmented) -> bytes:
    """PNG of axial planes of t1c, evenly from the lowest to the highest with tumour in it, lowest first."""
    after = result.crop_labels
    before = np.zeros_like(after) if result.crop_baseline is None else result.crop_baseline
    held = np.flatnonzero(((after > 0) | (before > 0)).any(axis=(0, 1)))
    low, high = (int(held[0]), int(held[-1])) if held.size else (0, after.shape[2] - 1)
    levels = np.unique(np.rint(np.linspace(low, high, min(LEVELS, high - low + 1))).astype(int))
    image = result.crop_image[
        result.task.contrasts.index(shown_contrasts(result.task, result.report.missing_contrasts)[0])
    ]
    shade = shading(image)
    tiles = [
        outlined(np.stack([shade(image[:, :, z].T)] * 3, axis=-1), before[:, :, z].T, after[:, :, z].T, result.task)
        for z in levels
    ]
    width, height = tiles[0].width, tiles[0].height + BAR
    canvas = Image.new("RGB", (width * min(COLUMNS, len(tiles)), height * -(-len(tiles) // COLUMNS)))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for number, (z, tile) in enumerate(zip(levels, tiles, strict=True)):
        x, y = width * (number % COLUMNS), height * (number // COLUMNS)
        above = (z - low) * result.source.grid.canonical_spacing_mm[2]
        draw.text((x + 6, y + 2), f"{above:.0f} mm", fill=(220, 220, 220), font=font)
        canvas.paste(tile, (x, y + BAR))
    content = BytesIO()
    canvas.save(content, "PNG")
    return content.getvalue()
