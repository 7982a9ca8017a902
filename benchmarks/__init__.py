"""How fast milsurv is, and in how much memory: each number beside a plain implementation's in the same run."""
