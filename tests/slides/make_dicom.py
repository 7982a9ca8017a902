"""DICOM slides made by pydicom: a series of one file for each level."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

FRAME_PX = 128


def write_dicom_slide(
    folder: Path, picture: NDArray[np.uint8], downsamples: Sequence[int] = (1, 2), mpp: float = 0.5
) -> list[Path]:
    """Write ``picture`` as a series into ``folder``, which is made; the files, level 0 first."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = {
        name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    }
    written = []
    for number, downsample in enumerate(downsamples):
        size = (picture.shape[1] // downsample, picture.shape[0] // downsample)
        level = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        dataset = _level(level, mpp * downsample, number)
        for name, uid in shared.items():
            setattr(dataset, name, uid)
        written.append(folder / f"level-{number}.dcm")
        dataset.save_as(written[-1], enforce_file_format=True)
    return written


def _level(level: NDArray[np.uint8], mpp: float, number: int) -> Dataset:
    frames = _frames(level)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.Modality, dataset.PatientID, dataset.ContainerIdentifier = "SM", "made for tests", "C"
    kinds = (
        ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        if number == 0
        else ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    )
    dataset.ImageType, dataset.InstanceNumber, dataset.SeriesNumber = kinds, number + 1, 1
    dataset.Rows = dataset.Columns = FRAME_PX
    dataset.NumberOfFrames, dataset.TotalPixelMatrixFocalPlanes, dataset.NumberOfOpticalPaths = (
        len(frames),
        1,
        1,
    )
    dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns = level.shape[:2]
    dataset.DimensionOrganizationType, dataset.SpecimenLabelInImage = "TILED_FULL", "NO"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PlanarConfiguration = (
        "YBR_FULL_422",
        3,
        0,
    )
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.LossyImageCompression = 7, 0, "01"
    measures, groups, path = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], 0.001
    groups.PixelMeasuresSequence = [measures]
    path.OpticalPathIdentifier, path.ObjectiveLensPower = "1", 20
    dataset.SharedFunctionalGroupsSequence, dataset.OpticalPathSequence = [groups], [path]
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    return dataset


def _frames(level: NDArray[np.uint8]) -> list[bytes]:
    height, width = level.shape[:2]
    padded = np.pad(level, ((0, -height % FRAME_PX), (0, -width % FRAME_PX), (0, 0)), mode="edge")
    frames = []
    for y in range(0, height, FRAME_PX):
        for x in range(0, width, FRAME_PX):
            stream = io.BytesIO()
            Image.fromarray(padded[y : y + FRAME_PX, x : x + FRAME_PX]).save(stream, "JPEG", quality=90)
            frames.append(stream.getvalue() + b"\0" * (stream.tell() % 2))
    return frames
