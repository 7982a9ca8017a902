"""Nothing in these tests leaves the machine or depends on the caller's MLflow settings."""

import os

for name in [name for name in os.environ if name.startswith(("MLFLOW_", "MILSURV_"))]:
    del os.environ[name]
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
