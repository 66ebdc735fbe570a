"use strict";
// Hides the images whose name and classes do not hold what is typed, and those with classes where only others are asked for.
const words = document.querySelector("#words"), bare = document.querySelector("#bare");
const counted = document.querySelector("#counted"), entries = [...document.querySelectorAll(".images li")];
function filter() {
  const wanted = words.value.toLowerCase().trim();
  let shown = 0;
  for (const entry of entries) {
    const fits = entry.textContent.toLowerCase().includes(wanted) && !(bare.checked && entry.dataset.state === "named");
    entry.hidden = !fits;
    shown += fits;
  }
  counted.textContent = wanted || bare.checked ? `${shown} shown` : "";
}
words.addEventListener("input", filter);
bare.addEventListener("change", filter);
filter();
