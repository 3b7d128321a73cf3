"""Tables of ready-made cells as Markdown and as LaTeX."""

from collections.abc import Sequence

Cells = tuple[str, ...]

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "<": r"$<$",
    ">": r"$>$",
}


def markdown_table(header: Cells, rows: Sequence[Cells]) -> str:
    """A Markdown table with aligned columns; a pipe in a cell is escaped."""
    table = [tuple(cell.replace("|", "\\|") for cell in row) for row in (header, *rows)]
    widths = [max(len(row[k]) for row in table) for k in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def latex_table(
    header: Cells, groups: Sequence[Sequence[Cells]], caption: str, label: str, notes: Sequence[str]
) -> str:
    """A LaTeX table for the package booktabs: text columns left of the numbers, a rule between the groups of rows."""
    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{latex(caption)}}}",
        f"  \\label{{{label}}}",
        f"  \\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        "    \\toprule",
        f"    {_latex_row(header)}",
    ]
    for group in groups:
        lines += ["    \\midrule", *(f"    {_latex_row(row)}" for row in group)]
    lines += ["    \\bottomrule", "  \\end{tabular}"]
    lines += [f"  \\par\\footnotesize {latex(note)}" for note in notes]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def latex(text: str) -> str:
    """Text with what LaTeX would take for a command escaped."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_row(cells: Cells) -> str:
    return " & ".join(latex(cell) for cell in cells) + r" \\"
