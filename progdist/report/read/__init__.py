"""Contents of a workdir's files, as the figures and the page need them."""

# Beyond these Matplotlib counts past what a float can hold.
LEAST, MOST = 1e-100, 1e100
