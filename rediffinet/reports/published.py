"""Numbers of the paper that stand beside ours. Only what was read in a source that can be named is here.

A number that is not here is shown as not available; it is never guessed, and never computed from others.
"""

CITATION = (
    "Ren, Sharma, Heras Rivera, Rebala, Honey, Chopra, Ruzevick, Kurt: Re-DiffiNet: Modeling discrepancies in tumor "
    "segmentation using diffusion models. MIDL 2024, arXiv:2402.07354"
)
SETTING = "BraTS 2023, five folds; HD95 in the paper's code is MedPy's (pooled percentile, spacing ignored)"

# The cells of the paper's Tables 1 and 2, as (table, model, metric, region) → (mean, standard deviation or None) with
# metric "dice" (in [0, 1]) or "hd95_mm". Empty: the text at hand (abstract and introduction of arXiv:2402.07354v4) does
# not reach the tables. Enter a cell only from the paper itself, with a comment that names version and table.
CELLS: dict[tuple[int, str, str, str], tuple[float, float | None]] = {}

# Source: abstract of arXiv:2402.07354 (v4, 10 April 2024): in cross-validation over five folds, compared with the
# U-Net, on average better by 0.55 % in Dice and by 16.28 % in HD95. Whether the 0.55 % is relative or in points is not
# said.
CHANGES: dict[tuple[str, str], float] = {
    ("dice", "Avg"): 0.55,
    ("hd95_mm", "Avg"): -16.28,
}
