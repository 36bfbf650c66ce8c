"""Where a graph normalises by batch or by moving statistics, in any way of writing it, and the BN layers this makes."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile

from checkpoints.formats.operations import FUSED, VARIABLES
from finetune.tf_graphs.program.nodes import Graph, Node, Ref, Values

AVERAGING = ("Mean", "Sum")
_ROOTS = ("Rsqrt", "Sqrt", "Pow")
_SUMS = ("Add", "AddV2")
_EXPONENTS = (0.5, -0.5)
_DIVISIONS = ("RealDiv", "Div", "DivNoNan")


@dataclass(frozen=True)
class Entries:
    """Where mean and variance enter a normalisation written by hand: (node, number of its input).

    across: the tensor that is combined with x. Its shape shows which axis the channels are.
    """

    mean: tuple[str, int]
    variance: tuple[str, int]
    across: Ref


@dataclass(frozen=True)
class _Formula:
    """The parts of a normalisation written by hand.

    x: the tensor that is normalised. mean, gamma, beta: variables. entry: where the mean enters. across: the tensor
    that is combined with x.
    """

    x: Ref | None = None
    mean: str | None = None
    gamma: str | None = None
    beta: str | None = None
    entry: tuple[str, int] | None = None
    across: Ref | None = None


@dataclass(frozen=True)
class Site:
    """One normalisation in a folded graph.

    x: the tensor that is normalised. axes: those that are averaged over.
    mean, variance: the variables it normalises by, None under batch statistics.
    gamma, beta: their variables, None where there are none.
    origin: the tensor x comes from, through nodes that keep its numbers. It is the same under both kinds of statistics.
    entries: where the statistics enter a normalisation that is written by hand.
    """

    node: str
    x: Ref
    axes: tuple[int, ...]
    epsilon: float
    origin: Ref
    mean: str | None = None
    variance: str | None = None
    gamma: str | None = None
    beta: str | None = None
    entries: Entries | None = None

    @property
    def batch(self) -> bool:
        """Whether batch statistics normalise here."""
        return self.variance is None

    @property
    def place(self) -> tuple[object, ...]:
        """What the sites of one layer have in common under both kinds of statistics."""
        return self.origin, self.gamma, self.beta


def find_sites(graph: Graph) -> list[Site]:
    """Every normalisation by the batch or by variables, from the input to the output."""
    reader = SiteReader(graph)
    return [site for node in graph.ordered() if (site := reader.site(node)) is not None]


def roots_of_variables(graph: Graph) -> list[str]:
    """The nodes that take the root of a variable, as of a variance, in no normalisation that is known."""
    reader = SiteReader(graph)
    return [node.name for node in graph.ordered() if reader.is_unread(node)]


class SiteReader:
    """Reads the normalisations and the moments of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._values = Values(graph)
        self._consumers = graph.consumers()

    def site(self, node: Node) -> Site | None:
        """The normalisation that `node` is the heart of, None where it is none."""
        if node.op in FUSED:
            return self._fused(node)
        return self._by_hand(node) if node.op in _ROOTS else None

    def is_unread(self, node: Node) -> bool:
        """Whether `node` takes the root of a variable, but is the heart of no normalisation."""
        root = node.op in _ROOTS and (node.op != "Pow" or self._number(node.inputs[1]) in _EXPONENTS)
        return root and self._variable(self._deviation(node)[1]) is not None and self._by_hand(node) is None

    def _fused(self, node: Node) -> Site:
        batch = node.attr["is_training"].b if "is_training" in node.attr else True
        axes = (0, 2, 3) if node.attr["data_format"].s == b"NCHW" else (0, 1, 2)
        epsilon = float(f"{node.attr['epsilon'].f if 'epsilon' in node.attr else 1e-4:.6g}")
        gamma, beta, mean, variance = (self._variable(ref) for ref in node.inputs[1:5])
        mean, variance = (None, None) if batch else (mean, variance or node.inputs[4].node)
        x = node.inputs[0]
        return Site(node.name, x, axes, epsilon, self._graph.source(x), mean, variance, gamma, beta)

    def _by_hand(self, root: Node) -> Site | None:
        """(x - mean) / sqrt(variance + epsilon), in the order of `tf.nn.batch_normalization` or of a formula."""
        if root.op == "Pow" and self._number(root.inputs[1]) not in _EXPONENTS:
            return None
        end, variance, entry, epsilon = self._deviation(root)
        mean = held = entries = None
        if moments := self.moments(variance):
            x, axes = moments
            if 0 not in axes:  # layer and instance normalisation
                return None
            found = self._formula(end, self._graph.source(x))
            if not (epsilon or found.entry):  # the root of a mean square that normalises nothing
                return None
        else:
            found = self._formula(end)
            mean, held, axes = found.mean, self._variable(variance), ()
            if held is None or found.x is None or mean is None:
                return None
            x = found.x
        if found.entry:
            entries = Entries(found.entry, entry, found.across or x)
        return Site(root.name, x, axes, epsilon, self._graph.source(x), mean, held, found.gamma, found.beta, entries)

    def _deviation(self, root: Node) -> tuple[Node, Ref, tuple[str, int], float]:
        """The last node of a standard deviation; its variance and where that enters; epsilon, as added to a variance.

        Epsilon is added to the variance, bounds it below, or is added to the root.
        """
        inside = self._graph.producer(root.inputs[0])
        if inside.op in (*_SUMS, "Maximum") and (small := self._small(inside)):
            index, epsilon = small
            return root, inside.inputs[1 - index], (inside.name, 1 - index), epsilon
        readers = self._consumers[root.name]
        if len(readers) == 1 and readers[0].op in _SUMS and (small := self._small(readers[0])):
            return readers[0], root.inputs[0], (root.name, 0), float(f"{small[1] ** 2:.6g}")
        return root, root.inputs[0], (root.name, 0), 0.0

    def _small(self, node: Node) -> tuple[int, float] | None:
        """(its number, its value) of the first input that is a known number."""
        numbers = [self._number(ref) for ref in node.inputs]
        return next(((index, number) for index, number in enumerate(numbers) if number is not None), None)

    def _formula(self, root: Node, x: Ref | None = None) -> _Formula:
        """Its parts, by the nodes that read 1/sqrt(...). `x`: what is normalised, where moments show it."""
        inverse, gamma = root, None
        while multiplied := self._multiplied(inverse):
            inverse, gamma = multiplied[0], multiplied[1] or gamma
        found = _Formula(gamma=gamma)
        for of, reader in self._uses(inverse.name):
            if reader.op in ("Reciprocal", "Inv"):
                return self._formula(reader, x)
            if reader.op not in ("Mul", *_DIVISIONS):
                continue
            factor = _other(reader, of)
            made = self._graph.producer(self._graph.source(factor))
            if scaled := self._scaled(made):  # gamma * (x - mean) / sqrt(...)
                found, made = replace(found, gamma=scaled[0]), scaled[1]
            held = self._variable(factor)
            subtracted = [each.inputs[0] for each in self._consumers[reader.name] if each.op == "Sub"]
            beta = next(filter(None, map(self._variable, subtracted)), found.beta)
            found = replace(found, beta=beta)
            if x is not None and x != self._graph.source(factor):  # the mean of a batch
                centred = made.op == "Sub" and self._graph.source(made.inputs[0]) == x
                entry = (made.name, int(centred)) if centred or made.op == "Neg" else None
                found = replace(found, entry=entry or (reader.name, reader.inputs.index(factor)))
            elif held:
                found = replace(found, mean=held, entry=(reader.name, reader.inputs.index(factor)))
            elif made.op == "Sub" and x is None and (centre := self._variable(made.inputs[1])):
                found = replace(found, x=made.inputs[0], mean=centre, entry=(made.name, 1), across=made.inputs[1])
            elif made.op == "Neg" and x is None and (centre := self._variable(made.inputs[0])):  # without beta
                found = replace(found, mean=centre, entry=(made.name, 0))
            else:
                found = replace(found, x=factor, across=Ref(of))
        return found

    def _multiplied(self, inverse: Node) -> tuple[Node, str | None] | None:
        """What multiplies 1/sqrt(...) by gamma or by a number (or divides it by sqrt(...)), if all read it; gamma."""
        readers = self._consumers[inverse.name]
        if len(readers) != 1 or readers[0].op not in ("Mul", *_DIVISIONS):
            return None
        factor = _other(readers[0], inverse.name)
        if readers[0].op != "Mul" and readers[0].inputs[0] != factor:  # it is divided
            return None
        gamma = self._variable(factor)
        return (readers[0], gamma) if gamma or self._producer(factor).op == "Const" else None

    def _scaled(self, product: Node) -> tuple[str, Node] | None:
        """The variable that a difference is multiplied by, and the difference; None where that is not the product."""
        if product.op == "Mul":
            for one, other in (product.inputs, product.inputs[::-1]):
                made = self._graph.producer(self._graph.source(other))
                if made.op == "Sub" and (gamma := self._variable(one)):
                    return gamma, made
        return None

    def _uses(self, name: str) -> Iterator[tuple[str, Node]]:
        """(the node read, its reader) of a node, also after a cast to another type."""
        for reader in self._consumers[name]:
            if reader.op == "Cast":
                yield from self._uses(reader.name)
            else:
                yield name, reader

    def moments(self, variance: Ref) -> tuple[Ref, tuple[int, ...]] | None:
        """The tensor a batch variance is taken of, and over which axes; None where it is no batch variance."""
        node = self._average(variance)
        if node.op == "Sub":  # E[x^2] - E[x]^2
            node = self._average(node.inputs[0])
        if node.op not in AVERAGING:
            return None
        square = self._producer(node.inputs[0])
        if square.op == "Mul":  # by the weights of `tf.nn.weighted_moments`
            factors = map(self._producer, square.inputs)
            square = next((one for one in factors if one.op == "SquaredDifference"), square)
        axes = self._values.of(node.inputs[1])
        if axes is None or square.op not in ("SquaredDifference", "Square", "Mul", "Pow"):
            return None
        x = square.inputs[0]
        centred = self._producer(x)
        if (
            square.op != "SquaredDifference"
            and centred.op == "Sub"
            and self._average(centred.inputs[1]).op in AVERAGING
        ):
            x = centred.inputs[0]
        return x, tuple(sorted(int(axis) for axis in axes.reshape(-1)))

    def _average(self, ref: Ref) -> Node:
        """What makes a tensor. Of a sum that is divided by a count (`tf.nn.moments` of TensorFlow 1.0) or by a sum of
        weights, the sum."""
        node = self._producer(ref)
        if node.op in ("Mul", *_DIVISIONS):
            return next((one for one in map(self._producer, node.inputs) if one.op == "Sum"), node)
        return node

    def _producer(self, ref: Ref) -> Node:
        return self._graph.producer(self._graph.source(ref, self._on_the_way))

    def _variable(self, ref: Ref) -> str | None:
        found = self._producer(ref)
        return found.name if found.op in VARIABLES else None

    def _on_the_way(self, node: Node) -> Ref | None:
        """Through a switch written as arithmetic: training * batch + (1 - training) * moving."""
        if node.op == "Mul":
            for one, other in (node.inputs, node.inputs[::-1]):
                if self._is(one, 1):
                    return other
        elif node.op in ("Add", "AddV2"):
            for one, other in (node.inputs, node.inputs[::-1]):
                product = self._graph.producer(one)
                if product.op == "Mul" and any(self._is(factor, 0) for factor in product.inputs):
                    return other
        return None

    def _is(self, ref: Ref, number: float) -> bool:
        return self._number(ref) == number

    def _number(self, ref: Ref) -> float | None:
        """The value of a tensor of one element that is known, to six digits."""
        value = self._values.of(ref)
        return float(f"{float(value.item()):.6g}") if value is not None and value.size == 1 else None


def _other(node: Node, name: str) -> Ref:
    return next((ref for ref in node.inputs if ref.node != name), node.inputs[0])


@dataclass(frozen=True)
class Layer:
    """A BN layer: its variables, and where it normalises by the batch (several sites where it is used again).

    kept: the variables whose old values updates keep a share of, where these are not mean and variance themselves.
    initial: what mean and variance start from.
    """

    name: str
    mean: str
    variance: str
    epsilon: float
    gamma: str | None
    beta: str | None
    sites: tuple[Site, ...]
    kept: tuple[str, str] | None = None
    initial: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class SwitchedLayers:
    """The layers that the training switch switches, and nodes that use one kind of statistics whatever it is."""

    layers: tuple[Layer, ...]
    always_batch: tuple[str, ...]
    always_moving: tuple[str, ...]


def pair(batch: list[Site], moving: list[Site]) -> SwitchedLayers:
    """Find the site of the same layer for each site of `batch`, the sites under the other value of the switch.

    It is the same node, or a node that normalises the same tensor with the same gamma and beta.
    """
    by_node = {site.node: site for site in moving}
    by_place: dict[tuple[object, ...], Site | None] = {}
    for site in moving:
        by_place[site.place] = None if site.place in by_place else site
    grouped: dict[tuple[str, str], list[tuple[Site, Site]]] = defaultdict(list)
    always_batch, always_moving = [], []
    others = {site.node: by_node.get(site.node) or by_place.get(site.place) for site in batch}
    others.update(_in_order(batch, moving, others))
    for site in batch:
        other = others[site.node]
        if not site.batch:
            always_moving.append(site.node)
        elif other is None or other.batch:
            always_batch.append(site.node)
        elif other.mean is not None and other.variance is not None:
            grouped[other.mean, other.variance].append((site, other))
    layers = []
    for name, ((mean, variance), sites) in zip(_names(list(grouped)), grouped.items(), strict=True):
        one, other = sites[0]
        gamma, beta = other.gamma or one.gamma, other.beta or one.beta
        layers.append(Layer(name, mean, variance, one.epsilon, gamma, beta, tuple(site for site, _ in sites)))
    return SwitchedLayers(tuple(layers), tuple(always_batch), tuple(always_moving))


def _in_order(batch: list[Site], moving: list[Site], paired: dict[str, Site | None]) -> dict[str, Site | None]:
    """Pair the sites that remain in their order, where one normalisation reads another one's output.

    Empty where they are not as many, or where their gamma and beta differ.
    """
    taken = {site.node for site in paired.values() if site}
    left = [site for site in batch if site.batch and paired[site.node] is None]
    right = [site for site in moving if not site.batch and site.node not in taken]
    if [(site.gamma, site.beta) for site in left] != [(site.gamma, site.beta) for site in right]:
        return {}
    return {a.node: b for a, b in zip(left, right, strict=True)}


def _names(variables: list[tuple[str, str]]) -> list[str]:
    """Each layer is called by the scope its two variables share, or by its mean where that scope is not its own."""
    scopes = []
    for mean, variance in variables:
        shared = takewhile(lambda parts: parts[0] == parts[1], zip(mean.split("/"), variance.split("/"), strict=False))
        scopes.append("/".join(part for part, _ in shared))
    return [
        scope if scope and scopes.count(scope) == 1 else mean
        for scope, (mean, _) in zip(scopes, variables, strict=True)
    ]
