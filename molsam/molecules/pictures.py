"""Pictures of molecules."""

from __future__ import annotations

from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

SIZE = (500, 400)
SMALL = (220, 160)


def draw_weights(mol: Chem.Mol, weights: np.ndarray, *, svg: bool) -> bytes:
    """The molecule over a map of its atoms' `weights` (V,): an SVG, else a PNG.

    Green where they are positive and pink where negative, as strong as the largest of them.
    """
    from rdkit.Chem.Draw import SimilarityMaps  # brings matplotlib

    kind = rdMolDraw2D.MolDraw2DSVG if svg else rdMolDraw2D.MolDraw2DCairo
    drawer = kind(*SIZE)
    mol = rdMolDraw2D.PrepareMolForDrawing(mol)
    SimilarityMaps.GetSimilarityMapFromWeights(mol, [float(w) for w in weights], drawer)
    drawer.FinishDrawing()
    picture: Any = drawer.GetDrawingText()
    return picture.encode() if svg else picture


def draw(mol: Chem.Mol) -> str:
    """The molecule as an SVG element."""
    drawer = rdMolDraw2D.MolDraw2DSVG(*SMALL)
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol)
    drawer.FinishDrawing()
    text = drawer.GetDrawingText()
    return text[text.index("<svg") :]
