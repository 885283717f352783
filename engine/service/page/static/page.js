// Live updates, relative times and small conveniences. Everything works without it.
"use strict";

(() => {
  const main = document.querySelector("[data-live]");
  const note = document.getElementById("live");

  const say = (state, text) => {
    if (!note) return;
    note.dataset.state = state;
    note.lastElementChild.textContent = text;
  };

  if (main && "EventSource" in window) {
    const source = new EventSource(main.dataset.live);
    source.onopen = () => say("on", "live");
    source.onerror = () => say("off", "reconnecting");
    source.onmessage = (event) => {
      for (const [id, html] of Object.entries(JSON.parse(event.data))) {
        const place = document.getElementById(id);
        // what somebody is reading with the keyboard or has selected stays until they have left it
        if (!place || place.contains(document.activeElement)) continue;
        place.innerHTML = html; // drawn and escaped by the server
      }
    };
    source.addEventListener("end", () => {
      source.close();
      say("end", "ended");
      document.querySelectorAll("[data-while-running]").forEach((one) => one.remove());
    });
    window.addEventListener("pagehide", () => source.close());
  }

  document.querySelectorAll("[data-all]").forEach((all) => {
    all.addEventListener("change", () => {
      document.querySelectorAll(`input[name="${all.dataset.all}"]`).forEach((one) => (one.checked = all.checked));
    });
  });

  document.querySelectorAll("select[data-go]").forEach((select) => {
    select.addEventListener("change", () => select.form.requestSubmit());
  });

  document.querySelectorAll("textarea[data-submit]").forEach((box) => {
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) box.form.requestSubmit();
    });
  });

  document.querySelectorAll("form[data-once]").forEach((form) => {
    form.addEventListener("submit", () => {
      form.querySelectorAll("button").forEach((button) => (button.disabled = true));
      setTimeout(() => form.querySelectorAll("button").forEach((button) => (button.disabled = false)), 8000);
    });
  });

  document.addEventListener("keydown", (event) => {
    const box = document.getElementById("find");
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
    if (event.key === "/" && box && !typing) {
      event.preventDefault();
      box.focus();
    }
  });
})();
