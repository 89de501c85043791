// Runs in a copy of the page, in a frame, and tells the page around it what is wrong with how the copy is shown.
(() => {
  const faults = new Set();
  const quote = text => '"' + text.trim().replace(/\s+/g, " ").slice(0, 40) + '"';
  const numbers = colour => (colour.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const alpha = colour => colour === "none" ? 0 : numbers(colour)[3] ?? 1;
  const over = (front, back) => {  // a colour in front of an opaque one
    const a = alpha(front), f = numbers(front);
    return "rgb(" + numbers(back).slice(0, 3).map((b, i) => a * f[i] + (1 - a) * b).join(",") + ")";
  };
  const luminance = colour => numbers(colour).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const behind = element => {  // the background of HTML
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(getComputedStyle(e).backgroundColor);
    layers.push(getComputedStyle(document.documentElement).colorScheme.includes("dark") &&
                matchMedia("(prefers-color-scheme: dark)").matches ? "rgb(0,0,0)" : "rgb(255,255,255)");
    return layers.reverse().reduce((back, front) => over(front, back));
  };
  const behindInDrawing = text => {  // the last shape drawn before the text that lies under its middle
    const svg = text.ownerSVGElement, box = text.getBBox(), point = svg.createSVGPoint();
    point.x = box.x + box.width / 2, point.y = box.y + box.height / 2;
    let colour = behind(svg);
    for (const shape of svg.querySelectorAll("circle, rect, path")) {
      if (text.compareDocumentPosition(shape) & Node.DOCUMENT_POSITION_FOLLOWING) break;
      const fill = getComputedStyle(shape).fill;
      if (fill.startsWith("rgb") && shape.isPointInFill(point)) colour = over(fill, colour);
    }
    return colour;
  };
  const shown = element => element.checkVisibility({visibilityProperty: true}) && element.getBoundingClientRect().width > 0;

  const checkText = (element, text) => {
    const style = getComputedStyle(element), drawing = element.ownerSVGElement;
    const size = parseFloat(style.fontSize) * (drawing ? element.getScreenCTM().a : 1);
    if (size < 11) faults.add(`text ${quote(text)} has ${size.toFixed(1)} px, expected 11 or more`);
    const ratio = contrast(over(drawing ? style.fill : style.color, drawing ? behindInDrawing(element) : behind(element)),
                           drawing ? behindInDrawing(element) : behind(element));
    if (ratio < 4.5) faults.add(`text ${quote(text)} has a contrast of ${ratio.toFixed(2)}, expected 4.5 or more`);
  };
  const checkTexts = () => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (!node.data.trim() || element.closest("title, desc, script, style") || !shown(element)) continue;
      checkText(element, node.data);
    }
  };
  const checkDrawing = svg => {
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map(text => [text, text.getBoundingClientRect()]);
    texts.forEach(([text, box], i) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
        faults.add(`text ${quote(text.textContent)} goes over the edge of its chart`);
      for (const [other, there] of texts.slice(i + 1))
        if (Math.min(box.right, there.right) - Math.max(box.left, there.left) > 1 &&
            Math.min(box.bottom, there.bottom) - Math.max(box.top, there.top) > 3)  // the box has room above the letters
          faults.add(`texts ${quote(text.textContent)} and ${quote(other.textContent)} overlap`);
    });
    for (const mark of svg.querySelectorAll(".line, .bar, .value, .whisker, .place")) {
      const style = getComputedStyle(mark), colour = style.fill === "none" || mark.tagName === "line" ? style.stroke : style.fill;
      const ratio = contrast(over(colour, behind(svg)), behind(svg));
      if (ratio < 3) faults.add(`a mark "${mark.getAttribute("class")}" has a contrast of ${ratio.toFixed(2)}, expected 3 or more`);
    }
  };
  const checkFigure = figure => {
    const svg = figure.querySelector("svg[role=img]");
    const name = quote(figure.querySelector("figcaption")?.textContent ?? "");
    if (!name || name === '""') faults.add("a figure has no caption");
    if (!svg) return faults.add(`figure ${name} holds no chart`);
    const box = svg.getBoundingClientRect();
    if (box.width < 1 || box.height < 1) faults.add(`chart ${name} has no size`);
    for (const part of ["title", "desc"])
      if (!svg.querySelector(":scope > " + part)?.textContent.trim()) faults.add(`chart ${name} has no <${part}>`);
    checkDrawing(svg);
  };
  const checkWidth = () => {
    const page = document.documentElement;
    if (page.scrollWidth <= page.clientWidth) return;
    const widest = [...document.body.querySelectorAll("*")].filter(e => !e.closest("svg *") && !e.parentElement.closest(".scroll"))
      .sort((a, b) => b.getBoundingClientRect().right - a.getBoundingClientRect().right)[0];
    faults.add(`the page is ${page.scrollWidth} px wide, because of <${widest.tagName.toLowerCase()} class="${widest.className}">`);
  };
  const check = () => {
    checkWidth();
    checkTexts();
    document.querySelectorAll("figure").forEach(checkFigure);
  };

  addEventListener("load", () => {
    const figures = document.querySelectorAll("figure").length;
    for (const e of document.querySelectorAll("[src], link[href]")) {
      const address = e.getAttribute("src") ?? e.getAttribute("href");
      if (!address.startsWith("data:")) faults.add(`the page loads ${address}`);
    }
    for (const style of document.querySelectorAll("style"))
      if (/url\(|@import/.test(style.textContent)) faults.add("a style sheet of the page loads something");
    check();
    const height = Math.ceil(document.body.getBoundingClientRect().bottom);
    document.querySelectorAll("details").forEach(d => d.open = true);
    check();
    parent.postMessage({width: innerWidth, height, figures, faults: [...faults]}, "*");
  });
})();
