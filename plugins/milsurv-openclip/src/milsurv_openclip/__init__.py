"""CONCH and QuiltNet, the vision towers of two pathology vision-language models, as backbones of milsurv."""
