"""Which normalisations under batch statistics and which under moving ones are the same BN layer."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune.tf_graphs.program.sites import Site


@dataclass(frozen=True)
class Layer:
    """A BN layer: its variables, and where it normalises by the batch (several times where it is used again)."""

    name: str
    mean: str
    variance: str
    epsilon: float
    gamma: str | None
    beta: str | None
    sites: tuple[Site, ...]


@dataclass(frozen=True)
class NormLayer:
    """The layers that the switch switches; the nodes that use the batch, or variables, whatever it says."""

    layers: tuple[Layer, ...]
    always_batch: tuple[str, ...]
    always_moving: tuple[str, ...]


def pair(batch: list[Site], moving: list[Site]) -> NormLayer:
    """Find each site's other self: the same node, or a node that normalises the same tensor by the same gamma and beta.

    `batch` and `moving` are the sites under either value of the switch.
    """
    by_node = {site.node: site for site in moving}
    by_place: dict[tuple[object, ...], list[Site]] = {}
    for site in moving:
        by_place.setdefault(_place(site), []).append(site)
    grouped: dict[tuple[str, str], list[tuple[Site, Site]]] = {}
    always_batch, always_moving = [], []
    others = {site.node: by_node.get(site.node) or _only(by_place.get(_place(site), [])) for site in batch}
    others.update(_in_order(batch, moving, others))
    for site in batch:
        other = others[site.node]
        if not site.batch:
            always_moving.append(site.node)
        elif other is None or other.batch:
            always_batch.append(site.node)
        elif other.mean is not None and other.variance is not None:
            grouped.setdefault((other.mean, other.variance), []).append((site, other))
    names = dict(_names(list(grouped)))
    layers = tuple(
        Layer(
            names[key],
            *key,
            sites[0][0].epsilon,
            sites[0][1].gamma or sites[0][0].gamma,
            sites[0][1].beta or sites[0][0].beta,
            tuple(site for site, _ in sites),
        )
        for key, sites in grouped.items()
    )
    return NormLayer(layers, tuple(always_batch), tuple(always_moving))


def _place(site: Site) -> tuple[object, ...]:
    return site.origin, site.gamma, site.beta


def _in_order(batch: list[Site], moving: list[Site], paired: dict[str, Site | None]) -> dict[str, Site | None]:
    """Those that are left, where one normalisation reads another one's output: first to first, if they are as many."""
    taken = {site.node for site in paired.values() if site}
    left = [site for site in batch if site.batch and paired[site.node] is None]
    right = [site for site in moving if not site.batch and site.node not in taken]
    if len(left) != len(right) or any((a.gamma, a.beta) != (b.gamma, b.beta) for a, b in zip(left, right, strict=True)):
        return {}
    return {a.node: b for a, b in zip(left, right, strict=True)}


def _only(sites: list[Site]) -> Site | None:
    return sites[0] if len(sites) == 1 else None


def _names(variables: list[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], str]]:
    """A layer is called by the scope its two variables share; by the mean's own name where two would be called so."""
    scopes = []
    for mean, variance in variables:
        common = 0
        parts = list(zip(mean.split("/"), variance.split("/"), strict=False))
        while common < len(parts) and parts[common][0] == parts[common][1]:
            common += 1
        scopes.append("/".join(part for part, _ in parts[:common]))
    for key, scope in zip(variables, scopes, strict=True):
        yield key, scope if scope and scopes.count(scope) == 1 else key[0]
