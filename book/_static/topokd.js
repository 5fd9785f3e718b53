// Two repairs that only the browser can make, both for readers without a mouse or a screen.
for (const entry of document.querySelectorAll("[role=doc-biblioentry]"))
  entry.setAttribute("role", "listitem"); // the old role is deprecated, and a list needs items
addEventListener("load", () => {
  window.MathJax?.startup?.promise?.then(() => {
    for (const box of document.querySelectorAll("div.math, mjx-container[display=true]"))
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; // a formula that scrolls, scrolls by keyboard too
  });
});
