"""The networks, in torch: the baseline U-Net, the discrepancy denoiser and its conditioning encoder."""
