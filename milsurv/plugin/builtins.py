"""The built-in plugins, registered through the same hooks as all others."""

from __future__ import annotations

from milsurv.plugin.spec import Register, hookimpl


@hookimpl
def milsurv_register_readers(register: Register) -> None:
    register(
        "jpeg_tiles",
        "milsurv.slides.jpeg_tiles:JpegTilesReader",
        summary="fast reading of JPEG tiles if identical to OpenSlide, else OpenSlide",
    )
    register(
        "openslide",
        "milsurv.slides.reader:OpenSlideReader",
        summary="all formats of OpenSlide",
    )


@hookimpl
def milsurv_register_tissue(register: Register) -> None:
    register(
        "otsu",
        "milsurv.slides.tissue:OtsuTissue",
        summary="Otsu's threshold on saturation, without pen marks and coverslip edges",
    )
    register(
        "geojson",
        "milsurv.slides.geojson:GeoJsonTissue",
        summary="annotations from QuPath or other tools, one file per slide",
    )


@hookimpl
def milsurv_register_backbones(register: Register) -> None:
    register(
        "efficientnet_lite0",
        "milsurv.backbones.efficientnet_lite0:EfficientNetLite0",
        summary="EfficientNet-Lite0 on ImageNet, 1280-d; weights included",
    )
    register("resnet18", "milsurv.backbones.resnet:ResNet18", summary="ResNet-18 on ImageNet, 512-d")
    register("resnet50", "milsurv.backbones.resnet:ResNet50", summary="ResNet-50 on ImageNet, 2048-d")
    register(
        "resnet50_trunc",
        "milsurv.backbones.resnet:ResNet50Trunc",
        summary="ResNet-50 up to its third stage, as in CLAM, 1024-d",
    )
    register(
        "ctranspath",
        "milsurv.backbones.ctranspath:CTransPath",
        summary="CTransPath, Swin transformer on pathology (Wang et al. 2022), 768-d; weights from a local file",
    )
    transformers = "milsurv.backbones.vision_transformers"
    register("uni", f"{transformers}:UNI", summary="UNI, ViT-L/16 on pathology (Chen et al. 2024), 1024-d")
    register("uni2_h", f"{transformers}:UNI2h", summary="UNI2-h, ViT-H/14 on pathology (2025), 1536-d")
    register(
        "virchow2",
        f"{transformers}:Virchow2",
        summary="Virchow2, ViT-H/14 on pathology (Zimmermann et al. 2024), class token and mean, 2560-d",
    )
    register(
        "gigapath",
        f"{transformers}:GigaPath",
        summary="Prov-GigaPath's tile encoder, ViT-g/16 on pathology (Xu et al. 2024), 1536-d",
    )
    register(
        "hoptimus1",
        f"{transformers}:HOptimus1",
        summary="H-optimus-1, ViT-g/14 on pathology (Bioptimus 2025), 1536-d",
    )
    register(
        "phikon_v2",
        f"{transformers}:PhikonV2",
        summary="Phikon-v2, ViT-L/16 on pathology (Filiot et al. 2024), 1024-d",
    )
    register(
        "timm",
        "milsurv.backbones.timm_model:TimmModel",
        summary="any model of timm, or hf-hub:owner/name",
    )


@hookimpl
def milsurv_register_feature_layouts(register: Register) -> None:
    importers = "milsurv.features.importers"
    register("trident", f"{importers}.trident:Trident", summary="TRIDENT: {m}x_{px}px_…/features_{encoder}")
    register(
        "clam", f"{importers}.clam:Clam", summary="CLAM: h5_files and pt_files, a folder per magnification"
    )
    register("authors", f"{importers}.clam:Authors", summary="released CrossFusion code: x{m}/pt_files")
    register(
        "stamp", f"{importers}.stamp:Stamp", summary="STAMP: a file per slide, a folder per magnification"
    )


@hookimpl
def milsurv_register_aggregators(register: Register) -> None:
    register(
        "crossfusion",
        "milsurv.aggregators.crossfusion:CrossFusion",
        summary="cross-attention between magnifications and convolutional fusion (Soraki et al. 2026)",
    )
    register(
        "crossfusion_concat",
        "milsurv.aggregators.crossfusion:CrossFusionConcat",
        summary="CrossFusion without convolutional fusion: the magnifications are concatenated",
    )
    register(
        "crossfusion_single",
        "milsurv.aggregators.crossfusion:CrossFusionSingle",
        summary="CrossFusion at one magnification",
    )
    register(
        "abmil",
        "milsurv.aggregators.abmil:ABMIL",
        summary="attention MIL, gated or plain, at one magnification or all (Ilse et al. 2018)",
    )
    register("dsmil", "milsurv.aggregators.dsmil:DSMIL", summary="dual-stream MIL (Li et al. 2021)")
    register(
        "transmil",
        "milsurv.aggregators.transmil:TransMIL",
        summary="Nyström transformer MIL (Shao et al. 2021)",
    )
    register(
        "mean_cox",
        "milsurv.aggregators.mean_cox:MeanCox",
        summary="ridge-penalised Cox regression on principal components of mean features, not trained but fitted",
    )
    register(
        "meanpool", "milsurv.aggregators.pooling:MeanPool", summary="mean of the patches, then a linear head"
    )
    register(
        "maxpool",
        "milsurv.aggregators.pooling:MaxPool",
        summary="maximum over the patches, then a linear head",
    )


@hookimpl
def milsurv_register_losses(register: Register) -> None:
    register("nll", "milsurv.losses.discrete:NLL", summary="discrete-time hazard likelihood")
    register("ce", "milsurv.losses.discrete:CE", summary="discrete-time cross-entropy")
    register("cox", "milsurv.losses.cox:Cox", summary="Cox partial log-likelihood, Efron or Breslow ties")


@hookimpl
def milsurv_register_executors(register: Register) -> None:
    register("local", "milsurv.executors.local:LocalExecutor", summary="worker processes on this machine")
