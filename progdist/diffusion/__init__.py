"""The method: schedules, the process, predictions, samplers, the ODE and losses.

Pure functions of arrays after Salimans & Ho, *Progressive Distillation for Fast
Sampling of Diffusion Models* (ICLR 2022, arXiv:2202.00512), called "the paper" here.

Conventions, everywhere below:
  t in [0, 1]; t = 0 is data, t = 1 is noise; s < t is the time stepped to.
  z_t = alpha_t x + sigma_t eps with alpha² + sigma² = 1 and eps ~ N(0, I).
  logsnr_t = log(alpha_t² / sigma_t²) decreases strictly in t. Modules exchange only
  logsnr: alpha and sigma always come from `schedules.alpha_sigma`.
"""
