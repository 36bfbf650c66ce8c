"""Which operations of somebody else's graph are run: those that compute, and no others.

A `.meta` file can hold operations that read and write files, call Python or open connections. So a graph is looked
through before TensorFlow is given any of it, and only the part that is run is given: not its input pipeline, not its
own save and restore operations.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from finetune.diagnosis.graph.dropout import RANDOM
from finetune.diagnosis.graph.nodes import ASSIGNMENTS, VARIABLES, Graph
from finetune.diagnosis.graph.protos import called
from finetune.diagnosis.graph.reading import require_attributes
from finetune.diagnosis.graph.sites import FUSED
from finetune.errors import FinetuneError

_COMPUTING = frozenset(
    {
        "Abs", "AccumulateNV2", "Acos", "Acosh", "Add", "AddN", "AddV2", "AdjustContrast", "AdjustContrastv2",
        "AdjustHue", "AdjustSaturation", "All", "Any", "ApproximateEqual", "ArgMax", "ArgMin", "Asin", "Asinh",
        "Atan", "Atan2", "Atanh", "AvgPool", "AvgPool3D", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3",
        "BatchToSpace", "BatchToSpaceND", "BiasAdd", "BiasAddV1", "BroadcastArgs", "BroadcastGradientArgs",
        "BroadcastTo", "Cast", "Ceil", "CheckNumerics", "ClipByValue", "Concat", "ConcatOffset", "ConcatV2",
        "Const", "ControlTrigger", "Conv2D", "Conv2DBackpropInput", "Conv3D", "Cos", "Cosh", "CropAndResize",
        "Cumprod", "Cumsum", "DataFormatDimMap", "DataFormatVecPermute", "DepthToSpace", "DepthwiseConv2dNative",
        "Diag", "DiagPart", "Dilation2D", "Div", "DivNoNan", "DynamicPartition", "DynamicStitch", "Einsum", "Elu",
        "EnsureShape", "Enter", "Equal", "Erf", "Erfc", "EuclideanNorm", "Exit", "Exp", "ExpandDims", "Expm1",
        "ExtractImagePatches", "FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars",
        "FakeQuantWithMinMaxVarsPerChannel", "Fill", "Floor", "FloorDiv", "FloorMod", "FusedPadConv2D", "Gather",
        "GatherNd", "GatherV2", "Greater", "GreaterEqual", "GuaranteeConst", "HSVToRGB", "Identity", "IdentityN",
        "If", "Inv", "InvertPermutation", "IsFinite", "IsInf", "IsNan", "L2Loss", "LRN", "LeakyRelu", "Less",
        "LessEqual", "LinSpace", "Log", "Log1p", "LogSoftmax", "LogicalAnd", "LogicalNot", "LogicalOr", "LoopCond",
        "MatMul", "MatrixBandPart", "MatrixDiag", "MatrixDiagV2", "MatrixDiagV3", "Max", "MaxPool", "MaxPool3D",
        "MaxPoolV2", "MaxPoolWithArgmax", "Maximum", "Mean", "Merge", "Min", "Minimum", "MirrorPad", "Mod", "Mul",
        "MulNoNan", "Neg", "NextIteration", "NoOp", "NotEqual", "OneHot", "OnesLike", "Pack", "Pad", "PadV2",
        "PartitionedCall", "Placeholder", "PlaceholderV2", "PlaceholderWithDefault", "Pow", "PreventGradient",
        "Prod", "RGBToHSV", "Range", "Rank", "ReadVariableOp", "RealDiv", "Reciprocal", "RefEnter", "RefExit",
        "RefIdentity", "RefMerge", "RefNextIteration", "RefSwitch", "Relu", "Relu6", "Reshape", "ResizeArea",
        "ResizeBicubic", "ResizeBilinear", "ResizeNearestNeighbor", "ResourceGather", "Reverse", "ReverseV2",
        "Rint", "Roll", "Round", "Rsqrt", "ScatterNd", "Select", "SelectV2", "Selu", "Shape", "ShapeN", "Sigmoid",
        "Sign", "Sin", "Sinh", "Size", "Slice", "Snapshot", "Softmax", "Softplus", "Softsign", "SpaceToBatch",
        "SpaceToBatchND", "SpaceToDepth", "Split", "SplitV", "Sqrt", "Square", "SquaredDifference", "Squeeze",
        "StatefulPartitionedCall", "StatelessIf", "StatelessRandomGetAlg", "StatelessRandomGetKeyCounter",
        "StatelessRandomGetKeyCounterAlg", "StatelessWhile", "StopGradient", "StridedSlice", "Sub", "Sum", "Switch",
        "Tan", "Tanh", "TensorArrayGatherV3", "TensorArrayReadV3", "TensorArrayScatterV3", "TensorArraySizeV3",
        "TensorArrayV3", "TensorArrayWriteV3", "TensorListFromTensor", "TensorListGetItem", "TensorListLength",
        "TensorListReserve", "TensorListSetItem", "TensorListStack", "TensorScatterUpdate", "Tile", "TopK",
        "TopKV2", "Transpose", "TruncateDiv", "TruncateMod", "Unpack", "UnravelIndex", "VariableShape", "Where",
        "While", "Xdivy", "Xlogy", "ZerosLike",
    }
)  # fmt: skip
_ALLOWED = _COMPUTING | RANDOM | FUSED | VARIABLES
_REASONS = {
    "ReadFile": "reads a file",
    "WriteFile": "writes a file",
    "MatchingFiles": "lists files",
    "PyFunc": "runs Python code",
    "PyFuncStateless": "runs Python code",
    "EagerPyFunc": "runs Python code",
}


def allowed(op: str) -> bool:
    """Whether an operation only computes."""
    return op in _ALLOWED


def refuse(graph: Graph, path: object, *, updating: bool = False) -> None:
    """FinetuneError naming the first operation of `graph`, or of the functions it calls, that is not run.

    `updating` allows assignments to variables as well.
    """
    for op, name in _operations(graph):
        if op in _ALLOWED or (updating and op in ASSIGNMENTS) or op in graph.functions:
            continue
        if op in ASSIGNMENTS:
            raise FinetuneError(
                f"{path} changes a variable on the way to the logits, in its node '{name}' ({op}): a diagnosis would "
                "change what it measures; give logits that do not depend on it with --logits"
            )
        raise FinetuneError(
            f"{path} has the operation {op} in its node '{name}' on the way to the logits, which {_reason(op)}: "
            "operations of a file are only run if they compute and do nothing else; cut the graph behind it with "
            "--input or --logits, or write it without"
        )


def _reason(op: str) -> str:
    known = _REASONS.get(op)
    if known:
        return known
    if not hasattr(tf.raw_ops, op):
        return "TensorFlow does not have (it is somebody's own, or of another version)"
    return "is not one of those known to compute only"


def _operations(graph: Graph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes.values():
        yield node.op, node.name
    for name in called(graph):
        function: Any = graph.functions[name]
        for proto in function.node_def:
            require_attributes(proto, f"{name}/{proto.name}")
            yield proto.op, f"{name}/{proto.name}"
