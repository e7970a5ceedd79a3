"use strict";
// What is folded on a screen is printed open.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not([open]):not(.unprinted)")) {
    part.open = true;
    part.dataset.folded = "";
  }
});
addEventListener("afterprint", () => {
  for (const part of document.querySelectorAll("details[data-folded]")) {
    part.open = false;
    delete part.dataset.folded;
  }
});
