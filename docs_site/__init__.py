"""The documentation site, made from docstrings, the registry and result files: ``python -m docs_site`` (``make docs``).

Nothing on a generated page is written by hand, and nothing generated is committed. The way of a page:

    source.py       what is public: every name in an ``__all__``, with its docstring, signature and page, read by ``ast``
    docstrings.py   a docstring as Markdown
    state_size.py   the bytes of an optimizer's state, by ``jax.eval_shape``
    reference.py    a page for every stage and for every file of a stage, with the papers that are at home there
    library.py      the start page, the papers, the claims, the contract kit, the command line, notebooks, ``docs/*.md``
    __main__.py     writes the Markdown to ``build/docs``, lets MkDocs make ``site/`` of it, checks the result
    mathematics.py  LaTeX as MathML, which browsers show by themselves: a hook of MkDocs
    links.py        dead links and anchors of a folder of HTML
"""
