"""The works that a run rests on, by key, and which of its plugins rests on which."""

from __future__ import annotations

WORKS = {
    "crossfusion": "Soraki R, Wang H, Liu S, Elmore JG, Shapiro L. CrossFusion: a multi-scale cross-attention "
    "convolutional fusion model for cancer survival prediction. Medical Imaging with Deep Learning, PMLR 315 (2026) "
    "2906–2921. arXiv:2503.02064.",
    "abmil": "Ilse M, Tomczak JM, Welling M. Attention-based deep multiple instance learning. ICML (2018).",
    "dsmil": "Li B, Li Y, Eliceiri KW. Dual-stream multiple instance learning network for whole slide image "
    "classification with self-supervised contrastive learning. CVPR (2021).",
    "transmil": "Shao Z, Bian H, Chen Y, Wang Y, Zhang J, Ji X, Zhang Y. TransMIL: transformer based correlated "
    "multiple instance learning for whole slide image classification. NeurIPS 34 (2021).",
    "nll": "Zadeh SG, Schmid M. Bias in cross-entropy-based training of deep survival networks. IEEE Transactions on "
    "Pattern Analysis and Machine Intelligence 43 (2021) 3126–3137.",
    "cox": "Cox DR. Regression models and life-tables. Journal of the Royal Statistical Society, Series B 34 (1972) "
    "187–220.",
    "adam": "Kingma DP, Ba J. Adam: a method for stochastic optimization. ICLR (2015).",
    "adamw": "Loshchilov I, Hutter F. Decoupled weight decay regularization. ICLR (2019).",
    "resnet": "He K, Zhang X, Ren S, Sun J. Deep residual learning for image recognition. CVPR (2016).",
    "efficientnet": "Tan M, Le QV. EfficientNet: rethinking model scaling for convolutional neural networks. "
    "ICML (2019).",
    "clam": "Lu MY, Williamson DFK, Chen TY, Chen RJ, Barbieri M, Mahmood F. Data-efficient and weakly supervised "
    "computational pathology on whole-slide images. Nature Biomedical Engineering 5 (2021) 555–570.",
    "ctranspath": "Wang X, Yang S, Zhang J, Wang M, Zhang J, Yang W, Huang J, Han X. Transformer-based unsupervised "
    "contrastive learning for histopathological image classification. Medical Image Analysis 81 (2022) 102559.",
    "uni": "Chen RJ, Ding T, Lu MY, Williamson DFK, et al. Towards a general-purpose foundation model for "
    "computational pathology. Nature Medicine 30 (2024) 850–862.",
    "virchow2": "Zimmermann E, Vorontsov E, Viret J, et al. Virchow2: scaling self-supervised mixed magnification "
    "models in pathology. arXiv:2408.00738 (2024).",
    "gigapath": "Xu H, Usuyama N, Bagga J, et al. A whole-slide foundation model for digital pathology from real-world "
    "data. Nature 630 (2024) 181–188.",
    "phikon_v2": "Filiot A, Jacob P, Mac Kain A, Saillard C. Phikon-v2, a large and public feature extractor for "
    "biomarker prediction. arXiv:2409.09173 (2024).",
    "otsu": "Otsu N. A threshold selection method from gray-level histograms. IEEE Transactions on Systems, Man, and "
    "Cybernetics 9 (1979) 62–66.",
    "harrell_1982": "Harrell FE, Califf RM, Pryor DB, Lee KL, Rosati RA. Evaluating the yield of medical tests. JAMA "
    "247 (1982) 2543–2546.",
    "harrell_1996": "Harrell FE, Lee KL, Mark DB. Multivariable prognostic models: issues in developing models, "
    "evaluating assumptions and adequacy, and measuring and reducing errors. Statistics in Medicine 15 (1996) 361–387.",
    "uno_2011": "Uno H, Cai T, Pencina MJ, D'Agostino RB, Wei LJ. On the C-statistics for evaluating overall adequacy "
    "of risk prediction procedures with censored survival data. Statistics in Medicine 30 (2011) 1105–1117.",
    "uno_2007": "Uno H, Cai T, Tian L, Wei LJ. Evaluating prediction rules for t-year survivors with censored "
    "regression models. Journal of the American Statistical Association 102 (2007) 527–537.",
    "graf": "Graf E, Schmoor C, Sauerbrei W, Schumacher M. Assessment and comparison of prognostic classification "
    "schemes for survival data. Statistics in Medicine 18 (1999) 2529–2545.",
    "kattan": "Kattan MW, Gerds TA. The index of prediction accuracy: an intuitive measure useful for evaluating risk "
    "prediction models. Diagnostic and Prognostic Research 2 (2018) 7.",
    "haider": "Haider H, Hoehn B, Davis S, Greiner R. Effective ways to build and evaluate individual survival "
    "distributions. Journal of Machine Learning Research 21 (2020) 85.",
    "austin": "Austin PC, Harrell FE, van Klaveren D. Graphical calibration curves and the integrated calibration "
    "index (ICI) for survival models. Statistics in Medicine 39 (2020) 2714–2742.",
    "efron": "Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman and Hall (1993).",
    "kaplan_meier": "Kaplan EL, Meier P. Nonparametric estimation from incomplete observations. Journal of the "
    "American Statistical Association 53 (1958) 457–481.",
    "mantel": "Mantel N. Evaluation of survival data and two new rank order statistics arising in its consideration. "
    "Cancer Chemotherapy Reports 50 (1966) 163–170.",
    "openslide": "Goode A, Gilbert B, Harkes J, Jukic D, Satyanarayanan M. OpenSlide: a vendor-neutral software "
    "foundation for digital pathology. Journal of Pathology Informatics 4 (2013) 27.",
    "timm": "Wightman R. PyTorch image models. GitHub (2019). doi:10.5281/zenodo.4414861.",
    "torch": "Paszke A, Gross S, Massa F, et al. PyTorch: an imperative style, high-performance deep learning "
    "library. NeurIPS 32 (2019).",
    "lifelines": "Davidson-Pilon C. lifelines: survival analysis in Python. Journal of Open Source Software "
    "4 (2019) 1317.",
    "torchsurv": "Monod M, Krusche P, Cao Q, Sahiner B, Petrick N, Ohlssen D, Coroller T. TorchSurv: a lightweight "
    "package for deep survival analysis. Journal of Open Source Software 9 (2024) 7341.",
}
OF_PLUGIN: dict[tuple[str, str], tuple[str, ...]] = {
    **{("aggregator", f"crossfusion{part}"): ("crossfusion",) for part in ("", "_concat", "_single")},
    **{("aggregator", name): (name,) for name in ("abmil", "dsmil", "transmil")},
    **{("loss", name): ("nll",) for name in ("nll", "ce")},
    ("loss", "cox"): ("cox",),
    ("tissue", "otsu"): ("otsu",),
    **{("reader", name): ("openslide",) for name in ("jpeg_tiles", "openslide")},
    ("backbone", "efficientnet_lite0"): ("efficientnet", "timm"),
    **{("backbone", name): ("resnet", "timm") for name in ("resnet18", "resnet50")},
    ("backbone", "resnet50_trunc"): ("resnet", "clam", "timm"),
    **{("backbone", name): ("uni", "timm") for name in ("uni", "uni2_h")},
    **{("backbone", name): (name, "timm") for name in ("ctranspath", "virchow2", "gigapath", "phikon_v2")},
    **{("backbone", name): ("timm",) for name in ("hoptimus1", "timm")},
}
"""Kind and name of a built-in plugin -> keys of the works behind it."""


class Citations:
    """Numbers works in the order in which a text first cites them."""

    def __init__(self) -> None:
        self._keys: list[str] = []

    def __call__(self, *keys: str) -> str:
        """`` [1, 2]``, with a space in front; nothing without keys."""
        self._keys += [key for key in dict.fromkeys(keys) if key not in self._keys]
        numbers = sorted(self._keys.index(key) + 1 for key in set(keys))
        return f" [{', '.join(map(str, numbers))}]" if numbers else ""

    def of_plugin(self, kind: str, name: str) -> str:
        """The same of a plugin; nothing of one that is not built in."""
        return self(*OF_PLUGIN.get((kind, name), ()))

    @property
    def works(self) -> list[str]:
        """What was cited, in the order of the numbers."""
        return [WORKS[key] for key in self._keys]
