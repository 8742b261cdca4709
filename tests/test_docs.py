"""The documentation's generator: what it makes of docstrings, registry and results, and what it refuses."""

import dataclasses
import inspect
import json
from pathlib import Path

import optax
import pytest

from docs_site import __main__ as build
from docs_site import library, links, reference, source
from docs_site.docstrings import to_markdown
from docs_site.state_size import Example, StateSize, example_of, state_size
from jaxtrain.optimizers import eigenbasis_qr_update, soap
from jaxtrain.papers import Status

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site():
    return reference.load(ROOT)


@pytest.fixture(scope="module")
def pages(site):
    return reference.pages(site)


def _documentation(function):
    return inspect.getdoc(function)


def test_a_docstring_becomes_markdown():
    assert (
        to_markdown(_documentation(eigenbasis_qr_update))
        == r"""One power iteration with re-orthogonalisation: moves a basis towards the eigenbasis of a matrix.

With the estimates $`\operatorname{diag}(Q^\top P Q)`$ of the eigenvalues, the columns of $`Q`$ are put in descending order and $`Q \leftarrow \operatorname{qr}(P Q)`$. What is kept for each column, `v`, is put in the same order, and not rotated.

**Arguments**

`P`
:   a symmetric positive semidefinite matrix.

`Q`
:   an orthogonal matrix near its eigenbasis.

`v`
:   an array whose `axis` runs over the columns of `Q`.

`axis`
:   that axis.

**Returns**

The new basis and the reordered `v`.

**Source.** Vyas et al. (2024), [arXiv 2409.11321](https://arxiv.org/abs/2409.11321).

```pycon
>>> Q, v = eigenbasis_qr_update(jnp.diag(jnp.array([1.0, 9.0])), jnp.eye(2), jnp.array([10.0, 20.0]), axis=0)
>>> jnp.abs(Q).tolist(), v.tolist()
([[0.0, 1.0], [1.0, 0.0]], [20.0, 10.0])
```"""
    )


def test_the_docstring_of_an_alias_becomes_markdown():
    lines = to_markdown(_documentation(soap), {"scale_by_soap": "#there"}.get).splitlines()
    assert (
        lines[0] == r"SOAP: $`\theta \leftarrow (1 - \eta\lambda)(\theta - \eta\,U)`$, see [`scale_by_soap`](#there)."
    )
    # a list of names that takes two lines, and what stands after it
    names = ("shampoo_beta", "precondition_frequency", "max_precond_dim", "precondition_1d")
    names += ("bias_correction", "normalize", "stacked_axes")
    where = lines.index(", ".join(f"`{name}`" for name in names))
    assert lines[where + 1] == ":   see [`scale_by_soap`](#there)."


SHAPES_OF_DOCSTRINGS = {
    "formulas, cut where lines may break": (
        ".. math::\n   a = \\frac{1 \\quad 2}{b}, \\qquad\n   c = d\n\n   e\n\nText.",
        "$$`a = \\frac{1 \\quad 2}{b},`$$ $$`c = d`$$\n{ .formula }\n\n$$`e`$$\n{ .formula }\n\nText.",
    ),
    "a formula in the line of its directive": (
        ".. math:: a\n   + b\nText.",
        "$$`a + b`$$\n{ .formula }\n\nText.",
    ),
    "a list, its text on several lines": (
        "Kinds:\n\n- one\n  more\n- two, ``x``\n",
        "Kinds:\n\n-   one more\n\n-   two, `x`",
    ),
    "a table with a row on two lines": (
        "=====  =====\na      b\n=====  =====\n``x``  one,\n       two | 3\n=====  =====",
        "| a | b |\n|---|---|\n| `x` | one, two \\| 3 |",
    ),
    "a literal block": ("Thus::\n\n    f(x)\n\nEnd.", "Thus:\n\n```python\nf(x)\n```\n\nEnd."),
    "what Markdown would take for its own": ("a*b*c < [1, 2) _x_ `y`", r"a\*b\*c &lt; \[1, 2) \_x\_ \`y\`"),
    "an argument of several paragraphs": (
        "Args:\n  *xs: first\n    line.\n\n    Second.\n  y: z",
        "**Arguments**\n\n`*xs`\n:   first line.\n\n    Second.\n\n`y`\n:   z",
    ),
}


@pytest.mark.parametrize(("given", "expected"), SHAPES_OF_DOCSTRINGS.values(), ids=SHAPES_OF_DOCSTRINGS)
def test_shapes_of_docstrings(given, expected):
    assert to_markdown(given) == expected


def _package(root, **files):
    """A package jaxtrain with one stage, ``losses``."""
    folder = root / "jaxtrain" / "losses"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return source.public(root)


def test_public_names_without_a_docstring_are_named(tmp_path):
    found = _package(
        tmp_path,
        __init__='from jaxtrain.losses.a import M, N, bare, told\n__all__ = ["M", "N", "bare", "told"]\n',
        a='def bare(x):\n    return x\n\ndef told(x):\n    """Says it."""\n\nN = 1\nM = 2\n"""Two."""\n',
    )
    assert [symbol.path for symbol in found["losses"]] == [f"jaxtrain.losses.{n}" for n in ("M", "N", "bare", "told")]
    assert source.undocumented(found) == [
        "jaxtrain.losses.N has no docstring (jaxtrain.losses.a, line 7)",
        "jaxtrain.losses.bare has no docstring (jaxtrain.losses.a, line 1)",
    ]


def test_a_name_that_is_exported_and_not_there_is_an_error(tmp_path):
    with pytest.raises(source.SourceError, match=r"jaxtrain\.losses exports 'gone'"):
        _package(tmp_path / "a", __init__='__all__ = ["gone"]\n')
    with pytest.raises(source.SourceError, match=r"jaxtrain\.losses imports 'f' from jaxtrain\.losses\.b, which"):
        _package(tmp_path / "b", __init__='from jaxtrain.losses.b import f\n__all__ = ["f"]\n')


def test_everything_public_is_documented(site):
    assert source.undocumented(site.symbols) == []


def test_everything_public_has_a_page(site, pages):
    for group in site.symbols.values():
        for symbol in group:
            assert f"{{ #{symbol.path} }}" in pages[symbol.page]
    assert site.wrong == []  # no docstring refers to what is not there


def test_every_paper_with_a_row_has_a_page(site, pages):
    complete = [paper for paper, status in site.papers if status.label == "complete"]
    assert complete
    for paper in complete:
        page, _, anchor = site.homes[paper.id].partition("#")
        assert anchor == paper.id and f"{{ #{paper.id} }}" in pages[page]
    assert site.homes["P192"] == "optimizers/soap.md#P192"
    assert site.homes["P064"] == "averaging/swa.md#P064"


def test_a_page_of_a_method_has_all_there_is(pages):
    page = pages["optimizers/soap.md"]
    assert "from jaxtrain.optimizers import soap, scale_by_soap, eigenbasis_qr_update, SoapState" in page
    assert "| [`soap`](#jaxtrain.optimizers.soap) | 24 | 8 |" in page
    result = json.loads((ROOT / "experiments" / "results" / "soap.json").read_text())
    for expected in (
        "https://arxiv.org/abs/2409.11321",
        f'{result["says"]} <span class="badge {result["verdict"]}">',
        f"{result['comparisons'][0]['difference']:+.3g}",
        "![The claim of soap](../results/soap.png)",
        "`tests/optimizers/test_soap.py::test_equals_the_official_code`",
        "*Notes.* Decompositions run in the parameters' precision",
    ):
        assert expected in page


def test_a_paper_that_optax_serves_has_a_page_of_its_own(site):
    paper = dataclasses.replace(
        site.papers[0][0], symbols=("optax.adamw",), claim="", oracles=("tests/test_a.py::test_b",)
    )
    other = reference.Site(site.root, {}, [(paper, Status("complete", "", ()))])
    page = reference.pages(other)[f"catalogue/{paper.slug}.md"]
    assert page.startswith(f"# {paper.title} {{ #{paper.id} }}\n")
    assert "optax.adamw(learning_rate, " in page
    assert "State: 8 bytes a parameter for a 256 × 256 float32 matrix, 8 for a vector of 256." in page


def test_a_reference_to_nothing_is_noted(site):
    other = reference.Site(site.root, site.symbols, [])
    find = other.link("optimizers/soap.md", "jaxtrain.optimizers.soap")
    assert find("scale_by_soap") == "#jaxtrain.optimizers.scale_by_soap"
    assert find("jaxtrain.averaging.swa") == "../averaging/swa.md#jaxtrain.averaging.swa"
    assert find("jaxtrain.averaging") == "../averaging/index.md"
    assert find("_rotate") is None and find("jax.numpy.linalg.eigh") is None
    assert other.wrong == []
    assert find("scale_by_soup") is None and find("jaxtrain.averaging.swaa") is None
    assert other.wrong == [
        "a docstring of jaxtrain.optimizers.soap refers to scale_by_soup, which there is not",
        "a docstring of jaxtrain.optimizers.soap refers to jaxtrain.averaging.swaa, which there is not",
    ]


def test_state_sizes_are_those_that_are_known(pages):
    assert state_size(optax.adam(1e-3)) == StateSize(8.0, 8.0)
    assert state_size(optax.sgd(1e-3)) == StateSize(0.0, 0.0)
    assert state_size(optax.sgd(1e-3, momentum=0.9)) == StateSize(4.0, 4.0)
    # Adam's two moments, and two covariances and two bases of 256 x 256
    assert state_size(soap(1e-3)) == StateSize(24.0, 8.0)
    assert example_of(optax.adamw) == Example(StateSize(8.0, 8.0), "")
    assert example_of(lambda params_of_another_kind: optax.adam(1e-3)) is None
    assert example_of(lambda decay=0.5: decay) is None
    assert "| [`lawa(window=1)`](#jaxtrain.averaging.lawa) | 4 | 4 |" in pages["averaging/lawa.md"]


def test_dead_links_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text('<h1 id="top">a</h1><a href="sub/b.html#there">x</a><img src="no.png">')
    (tmp_path / "sub" / "b.html").write_text(
        '<a name="there"></a><a href="../index.html#top">x</a><a href="#nowhere">x</a><a href="https://x.org">x</a>'
        '<a href="../gone.html">x</a><a href=".">folder</a>'
    )
    assert links.dead_links(tmp_path) == [
        "index.html: dead link no.png",
        "sub/b.html: dead anchor #nowhere",
        "sub/b.html: dead link ../gone.html",
        "sub/b.html: dead link .",
    ]
    assert links.anchors(tmp_path) == {"top", "there"}


def test_what_lacks_in_a_built_site_is_named(site, tmp_path):
    symbols = {"optimizers": [s for s in site.symbols["optimizers"] if s.name in ("soap", "scale_by_soap")]}
    few = reference.Site(site.root, symbols, [(p, s) for p, s in site.papers if p.id in ("P192", "P064")])
    (tmp_path / "a.html").write_text('<h2 id="jaxtrain.optimizers.soap">soap</h2><h3 id="P192">SOAP</h3>')
    assert build.faults(few, tmp_path) == [
        "jaxtrain.optimizers.scale_by_soap has no page",
        "P064 (swa) is complete and has no page",
    ]


def test_every_page_stands_in_the_menu_once(site, pages):
    everything = pages | library.pages(site)

    def names(menu):
        if isinstance(menu, str):
            return [menu]
        return [name for part in (menu.values() if isinstance(menu, dict) else menu) for name in names(part)]

    told = names(build.navigation(site, everything))
    assert sorted(told) == sorted(name for name in everything if name.endswith(".md"))
    assert everything["catalogue/index.md"].count("\n| P") == 398
    assert "## jaxtrain claim\n\n```text\nusage: jaxtrain claim " in everything["cli.md"]
    assert "| no_retrace | a run is traced once |" in everything["contract.md"]
    assert everything["notebooks/quickstart.md"].startswith("# jaxtrain in five minutes\n")


def test_costs_come_from_tables_in_docs(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "averages.md").write_text(
        "# A\n\n| x | y |\n|---|---|\n| swa | 0 |\n\n## Cost of a step\n\n| average | ms |\n|---|---|\n| `swa` often | 1.5 |\n"
    )
    assert reference.Site(tmp_path, {}, []).costs == {
        "swa": [("averages.md", "| average | ms |", "| `swa` often | 1.5 |")]
    }
