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

  // updates of parts that have the keyboard focus or a selection
  const waiting = new Map();

  const isRead = (place) => {
    const selection = getSelection();
    return place.contains(document.activeElement) || (!selection.isCollapsed && selection.containsNode(place, true));
  };

  const show = () => {
    for (const [id, html] of waiting) {
      const place = document.getElementById(id);
      if (place && isRead(place)) continue;
      waiting.delete(id);
      if (!place) continue;
      const wide = ".scroll, .drawing";
      const scrolled = Array.from(place.querySelectorAll(wide), (one) => one.scrollLeft);
      place.innerHTML = html; // drawn and escaped by the server
      place.querySelectorAll(wide).forEach((one, index) => (one.scrollLeft = scrolled[index] || 0));
    }
  };

  const watch = () => {
    const source = new EventSource(main.dataset.live);
    source.onopen = () => say("on", "live");
    source.onmessage = (event) => {
      Object.entries(JSON.parse(event.data)).forEach(([id, html]) => waiting.set(id, html));
      show();
    };
    source.onerror = async () => {
      say("off", "reconnecting");
      if (source.readyState !== EventSource.CLOSED) return;
      // an answer that is no stream, of a proxy or of the login: the browser does not try again by itself
      const asked = { headers: { Accept: "text/html" }, cache: "no-store" };
      const page = await fetch(location.href, asked).catch(() => null);
      if (page && page.redirected) say("off", "logged out: reload to log in");
      else setTimeout(watch, 5000);
    };
    source.addEventListener("end", () => {
      source.close();
      say("end", "ended");
      document.querySelectorAll("[data-while-running]").forEach((one) => one.remove());
    });
    window.addEventListener("pagehide", () => source.close(), { once: true });
  };

  if (main && "EventSource" in window) {
    say("still", "connecting");
    watch();
    document.addEventListener("selectionchange", show);
    document.addEventListener("focusout", () => setTimeout(show));
  }

  // a page that Back brings out of the browser's memory shows what was true when it was left
  window.addEventListener("pageshow", (event) => {
    if (event.persisted && main) location.reload();
  });

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
    const enable = (isOn) => form.querySelectorAll("button").forEach((button) => (button.disabled = !isOn));
    form.addEventListener("submit", () => {
      setTimeout(() => enable(false)); // not at once: the form is without the value of a button that is disabled
      setTimeout(() => enable(true), 8000);
    });
  });

  document.querySelectorAll('textarea[name="record"]').forEach((box) => {
    let isSent = false;
    box.form.addEventListener("submit", () => (isSent = true));
    window.addEventListener("beforeunload", (event) => {
      if (!isSent && box.value !== box.defaultValue) event.preventDefault(); // the browser asks whether to leave
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
