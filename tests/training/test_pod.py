"""Every experiment's training step, lowered for meshes of 8, 64 and 256 devices of which none is here."""

from __future__ import annotations

import dataclasses

import pytest

from avjax.data.record import SCHEMA
from avjax.data.records import Description
from avjax.experiment import known, load
from avjax.nn.transformer import SIZES
from avjax.training.pod import lower
from avjax.training.sharding import MeshShape, Rules
from tests.fixtures.records import write_experiment, write_records

MEGABYTE = 2**20
MESHES = {
    "data=8": (8, MeshShape(data=8)),
    "data=4 fsdp=8 tensor=2": (64, MeshShape(data=4, fsdp=8, tensor=2)),
    "fsdp=256": (256, MeshShape(data=1, fsdp=256)),
    "data=8 fsdp=8 tensor=2 sequence=2": (256, MeshShape(data=8, fsdp=8, tensor=2, sequence=2)),
}
# On every mesh; the others, some of which look at steps in order, on one that does not cut sequences.
EVERYWHERE = ("demo_mbt", "demo_late")
ONE = "data=4 fsdp=8 tensor=2"
# What `make check` lowers on that one mesh: of events and of pairs. `make long` lowers all.
IN_SHORT = ("events_psp", "matching_aicanet")


def description(experiment) -> Description:
    """Records of the shapes that the experiment's model and front end say they take."""
    data = experiment.data
    shapes = {encoder.modality: encoder.shape for encoder in experiment.model.modalities}
    video = None
    if data.video is not None:
        # Under whatever name a front end gives to frames.
        _, height, width, channels = next(shape for shape in shapes.values() if len(shape) == 4)
        video = {"height": height, "width": width, "channels": channels, "rate": 25.0, "uniform": True}
    classes = {head: [str(number) for number in range(count)] for head, count in experiment.model.classes.items()}
    if experiment.frontend.triplets is not None:
        classes[experiment.frontend.triplets.identity] = ["one", "another"]
    series = {way.series or name: {"shape": shapes[name][1:], "rate": 1.0} for name, way in data.features.items()}
    series |= {way.series or head: {"shape": (len(classes.get(head, "1")),)} for head, way in data.targets.items()}
    return Description(
        name="abstract", schema=SCHEMA, classes=classes, counts={}, audio={"rate": 16_000}, video=video,
        synthetic=True, licence="none", corpus={}, provenance={}, shards={},
        series={name: {"rate": 1.0, **way} for name, way in series.items()},
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def here(root):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield


def test_it_finds_the_experiments():
    assert {"demo_mbt", "digits_late"} <= set(known())


def meshes_of_experiments():
    for name in known():
        for mesh in MESHES if name in EVERYWHERE else [ONE]:
            marks = () if name == EVERYWHERE[0] or (mesh == ONE and name in IN_SHORT) else pytest.mark.long
            yield pytest.param(name, mesh, id=f"{name}-{mesh}", marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mesh"), list(meshes_of_experiments()))
def test_every_experiment_lowers_for_a_pod(name, mesh):
    experiment, _ = load(name)
    count, shape = MESHES[mesh]
    step = lower(experiment, description(experiment), shape, count, rows=count * experiment.data.batch, platform="tpu")
    text = step.lowered.as_text()
    assert f"mhlo.num_partitions = {count}" in text
    assert step.replicated(above=MEGABYTE) == {} or mesh != "fsdp=256"
    # The state goes in and comes out at the same place: its buffers are used again.
    assert text.count("tf.aliasing_output") + text.count("jax.buffer_donor") >= len(step.bytes_per_device) - 1


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["bottleneck", "merged"])
@pytest.mark.parametrize("size", ["Ti", "S", "B", "L"])
@pytest.mark.long
def test_no_large_array_is_replicated_at_the_paper_s_sizes(size, fusion):
    """MBT as in the paper, in bfloat16 with scanned layers; every device holds about a 256th of it."""
    experiment, _ = load("demo_mbt", ("--training.scan", "--training.precision", "bfloat16"))
    model = dataclasses.replace(experiment.model, size=SIZES[size], fusion=fusion, fusion_layer=8, bottlenecks=4)
    experiment = dataclasses.replace(experiment, model=model)
    step = lower(experiment, description(experiment), MeshShape(data=1, fsdp=256), 256, rows=2048, platform="tpu")
    assert step.replicated(above=MEGABYTE) == {}
    whole = lower(experiment, description(experiment), MeshShape(data=256), 256, rows=2048, platform="tpu")
    held, total = sum(step.bytes_per_device.values()), sum(whole.bytes_per_device.values())
    # Biases, norms and what 256 does not divide stay whole; all of the big ones are cut.
    assert held < {"Ti": 1, "S": 0.5, "B": 0.02, "L": 0.02}[size] * total
    assert whole.replicated(above=MEGABYTE) != {}


@pytest.mark.slow
def test_a_large_replicated_array_is_found(tmp_path):
    """The contract test can fail: with rules that cut nothing it does."""
    experiment, _ = load(write_experiment(tmp_path / "experiments", write_records(tmp_path / "records")))
    model = dataclasses.replace(experiment.model, size=SIZES["B"], fusion_layer=8)
    whole = dataclasses.replace(experiment.training, rules=Rules(embed=()))
    experiment = dataclasses.replace(experiment, model=model, training=whole)
    step = lower(experiment, description(experiment), MeshShape(data=1, fsdp=256), 256, rows=256, platform="tpu")
    assert any("feed_forward.up.kernel" in name for name in step.replicated(above=MEGABYTE))
