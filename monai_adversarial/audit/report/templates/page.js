"use strict";
// On a narrow screen the contents would fill it.
if (innerWidth < 1200) {
  document.querySelector(".contents details").open = false;
}
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
