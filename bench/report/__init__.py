"""The page: one HTML file that holds everything it shows, made from one run's records.

frames.py      the records as tables         plots.py     a table as a picture (SVG that follows the page's theme)
sweeps.py      a sweep: plots and a table    verdict.py   the run in a few figures, and how noisy it was
photograph.py  edges of a real photograph    network.py   where VGG-16 has its memory and its parameters
build.py       all of these, into page.html.j2 and style.css
"""
