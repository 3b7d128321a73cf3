"""Reports of scored cohorts (`rediffinet.scoring.results`): who is better and how sure that is, tables, figures.

    statistics   →  paired tests and bootstrap intervals of two arrays
    comparison   →  two models, paired, per region and fold; comparison_tables writes it
    paper_tables →  tables of the shape of the paper's, with the numbers of `published` beside ours; formats writes them
    overlay, curves, quantiles → figures, through `drawing`

Needs the extra `report` (SciPy, Matplotlib), imported when it is used. No torch, and nothing in the core needs this.
"""
