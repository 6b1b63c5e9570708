"""What is left of a network when its non-linear parts are taken out, as one linear map (Bai et al. 2021)."""
