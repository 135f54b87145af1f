from __future__ import annotations

import pytest
import torch

from mmedge.models.attention import start_of_positions


@pytest.mark.parametrize("grid", [(10, 10), (6, 9)])
def test_positions_of_a_grid_begin_with_the_nearest_cells_the_most_alike(grid: tuple[int, int]) -> None:
    rows, columns = grid
    positions = start_of_positions(rows * columns, 64, grid).detach()
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    distances, alike = torch.cdist(cells, cells), positions @ positions.T
    for cell in range(rows * columns):
        by_distance = {distance: alike[cell][distances[cell] == distance].mean() for distance in (0.0, 1.0, 2.0)}
        assert by_distance[0.0] > by_distance[1.0] > by_distance[2.0]
        assert by_distance[2.0] > alike[cell][distances[cell] > 4].max()


@pytest.mark.parametrize("dim", [2, 6, 16])
def test_positions_have_the_size_asked_for_whatever_it_is(dim: int) -> None:
    assert start_of_positions(12, dim, (3, 4)).shape == (12, dim)
    assert start_of_positions(5, dim, None).shape == (5, dim)
