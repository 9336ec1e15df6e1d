"""Writes ``penguins.csv``: the shape, the gaps and the formats of seaborn's penguins, every number
drawn at random around rounded means. Not the data themselves:

    python tests/make_penguins.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

# species, island: how many; means of bill length, bill depth, flipper (mm), body mass (g)
GROUPS = [
    ("Adelie", "Torgersen", 52, (39, 18.4, 190, 3700)),
    ("Adelie", "Biscoe", 44, (39, 18.4, 190, 3700)),
    ("Adelie", "Dream", 56, (39, 18.4, 190, 3700)),
    ("Chinstrap", "Dream", 68, (49, 18.4, 196, 3730)),
    ("Gentoo", "Biscoe", 124, (47.5, 15, 217, 5080)),
]
SPREAD, SEX = np.array([2.2, 0.8, 5.5, 300]), np.array([1.8, 0.75, 2.5, 330])


def rows(rng: np.random.Generator) -> list[list[str]]:
    made = []
    for species, island, count, means in GROUPS:
        for _ in range(count):
            sex = rng.choice([-1, 1])
            size = rng.normal()  # what the measurements of one animal share
            drawn = means + sex * SEX + SPREAD * (0.6 * size + 0.8 * rng.normal(size=4))
            length, depth, flipper, mass = drawn
            numbers = [
                f"{length:.1f}",
                f"{depth:.1f}",
                f"{flipper:.0f}.0",
                f"{25 * round(mass / 25)}.0",
            ]
            year = str(rng.choice([2007, 2008, 2009]))
            made.append([species, island, *numbers, "Male" if sex > 0 else "Female", year])
    return made


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    table = rows(rng)
    unknown = rng.permutation(len(table))[:11]
    for at in unknown:
        table[at][6] = ""
    for at in unknown[:2]:
        table[at][2:6] = [""] * 4
    names = "species,island,bill_length_mm,bill_depth_mm,flipper_length_mm,body_mass_g,sex,year"
    lines = [names, *(",".join(row) for row in table)]
    Path(__file__).with_name("penguins.csv").write_text("\n".join(lines) + "\n")
