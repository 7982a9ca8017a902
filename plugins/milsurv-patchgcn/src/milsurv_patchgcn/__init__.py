"""Patch-GCN, a graph aggregator over neighbouring patches, for milsurv."""
