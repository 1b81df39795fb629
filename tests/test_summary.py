"""The tables of networks: the lecture's VGG-16 rows, and VGG A to E."""

import re

import pytest

from fastconv import models, summary

# The lecture's rows, one line per layer.
CS231N = """
INPUT: [224x224x3]        memory:  224*224*3=150K   params: 0
CONV3-64: [224x224x64]    memory:  224*224*64=3.2M  params: (3*3*3)*64 = 1,728
CONV3-64: [224x224x64]    memory:  224*224*64=3.2M  params: (3*3*64)*64 = 36,864
POOL2: [112x112x64]       memory:  112*112*64=800K  params: 0
CONV3-128: [112x112x128]  memory:  112*112*128=1.6M params: (3*3*64)*128 = 73,728
CONV3-128: [112x112x128]  memory:  112*112*128=1.6M params: (3*3*128)*128 = 147,456
POOL2: [56x56x128]        memory:  56*56*128=400K   params: 0
CONV3-256: [56x56x256]    memory:  56*56*256=800K   params: (3*3*128)*256 = 294,912
CONV3-256: [56x56x256]    memory:  56*56*256=800K   params: (3*3*256)*256 = 589,824
CONV3-256: [56x56x256]    memory:  56*56*256=800K   params: (3*3*256)*256 = 589,824
POOL2: [28x28x256]        memory:  28*28*256=200K   params: 0
CONV3-512: [28x28x512]    memory:  28*28*512=400K   params: (3*3*256)*512 = 1,179,648
CONV3-512: [28x28x512]    memory:  28*28*512=400K   params: (3*3*512)*512 = 2,359,296
CONV3-512: [28x28x512]    memory:  28*28*512=400K   params: (3*3*512)*512 = 2,359,296
POOL2: [14x14x512]        memory:  14*14*512=100K   params: 0
CONV3-512: [14x14x512]    memory:  14*14*512=100K   params: (3*3*512)*512 = 2,359,296
CONV3-512: [14x14x512]    memory:  14*14*512=100K   params: (3*3*512)*512 = 2,359,296
CONV3-512: [14x14x512]    memory:  14*14*512=100K   params: (3*3*512)*512 = 2,359,296
POOL2: [7x7x512]          memory:  7*7*512=25K      params: 0
FC: [1x1x4096]            memory:  4096             params: 7*7*512*4096 = 102,760,448
FC: [1x1x4096]            memory:  4096             params: 4096*4096 = 16,777,216
FC: [1x1x1000]            memory:  1000             params: 4096*1000 = 4,096,000
"""


def rows(text):
    """Its lines, with runs of blanks as one."""
    return [re.sub(r" +", " ", line.strip()) for line in text.strip().splitlines()]


def test_the_lectures_rows_exactly():
    assert rows(summary.table("vgg16"))[:22] == rows(CS231N)


def test_totals_and_the_footnote_on_the_published_one():
    text = summary.table("vgg16", "cs231n")
    assert "15,237,608 values * 4 bytes = 58.1 MiB" in text
    assert "138,344,128 weights; 138,357,544 with biases" in text
    assert "93MB" in text
    assert "93MB" not in summary.table("vgg19"), "the footnote is about VGG-16's table alone"


def test_vgg16_in_figures():
    counted = summary.summarise(models.find("vgg16"))
    assert (counted.weights, counted.biases, counted.parameters) == (138_344_128, 13_416, 138_357_544)
    assert (counted.activations, counted.macs) == (15_237_608, 15_470_264_320)


@pytest.mark.parametrize(
    ("configuration", "weights", "biases", "parameters", "millions", "macs", "activations"),
    [
        ("A", 132_851_392, 11_944, 132_863_336, 133, 7_609_090_048, 9_116_136),
        ("A-LRN", 132_851_392, 11_944, 132_863_336, 133, 7_609_090_048, 9_116_136),
        ("B", 133_035_712, 12_136, 133_047_848, 133, 11_308_466_176, 13_933_032),
        ("C", 133_625_536, 13_416, 133_638_952, 134, 11_770_888_192, 15_237_608),
        ("D", 138_344_128, 13_416, 138_357_544, 138, 15_470_264_320, 15_237_608),
        ("E", 143_652_544, 14_696, 143_667_240, 144, 19_632_062_464, 16_542_184),
    ],
)
def test_vgg_a_to_e(configuration, weights, biases, parameters, millions, macs, activations):
    counted = summary.summarise(models.vgg(configuration))
    assert (counted.weights, counted.biases, counted.parameters) == (weights, biases, parameters)
    assert round(counted.parameters / 1e6) == millions
    assert (counted.macs, counted.activations) == (macs, activations)


@pytest.mark.parametrize("name", models.names())
def test_every_name_has_a_table(name):
    assert summary.table(name).startswith("INPUT: [224x224x3]")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="vgg16"):
        models.find("vgg17")
    with pytest.raises(ValueError, match="A-LRN"):
        models.vgg("F")
    with pytest.raises(ValueError, match="cs231n"):
        summary.table("vgg16", "torchsummry")


def test_classes_change_the_last_layer_alone():
    assert summary.summarise(models.vgg("D", classes=10)).weights == 138_344_128 - 990 * 4096


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"), (1000, "1000"), (9999, "9999"), (10_000, "10K"), (25_088, "25K"), (100_352, "100K"),
        (150_528, "150K"), (802_816, "800K"), (999_999, "990K"), (1_605_632, "1.6M"), (3_211_264, "3.2M"),
        (12_345_678, "12M"), (138_000_000, "130M"),
    ],
)  # fmt: skip
def test_short_numbers(count, text):
    assert summary.short(count) == text


def test_a_window_that_does_not_fit_is_said():
    network = models.Network("too small", (1, 4, 4), (models.Convolution(1, (5, 5)),))
    with pytest.raises(ValueError, match="kernel size 5"):
        summary.summarise(network)


def test_other_layers_and_parameters_are_counted():
    layers = (
        models.Convolution(8, (3, 5), stride=(2, 1), padding=(1, 2), groups=2, bias=False),
        models.Pool("avg", (2, 2), (2, 2)),
        models.Linear(3, bias=False),
    )
    counted = summary.summarise(models.Network("odd", (4, 8, 8), layers))
    assert [entry.output_shape for entry in counted.layers] == [(4, 8, 8), (8, 4, 8), (8, 2, 4), (3,)]
    assert (counted.weights, counted.biases) == (8 * 2 * 15 + 64 * 3, 0)
    assert counted.macs == 8 * 4 * 8 * 2 * 15 + 64 * 3
    text = summary.cs231n(counted)
    assert "CONV3x5-8: [4x8x8]" in text
    assert "(3*5*2)*8 = 240" in text
    assert "2*4*8*3 = 192" in text
