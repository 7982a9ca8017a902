"""Import of features made by other tools: one module per layout.

A layout derives from :class:`milsurv.features.importers.base.FeatureLayout` and is registered with
``milsurv_register_feature_layouts``, the built-in ones in ``milsurv/plugin/builtins.py``.
"""
