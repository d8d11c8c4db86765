// A signature drawn with a finger: its strokes go into a hidden field. Without JavaScript the paper's reference serves.

// What a form may carry is bounded; a longer drawing is as good a one without its end.
const MAX_POINTS = 600;

for (const canvas of document.querySelectorAll("canvas[data-for]")) {
  const field = document.getElementById(canvas.dataset.for);
  const pen = canvas.getContext("2d");
  let strokes = [];
  let stroke = null;
  let points = 0;
  canvas.parentElement.hidden = false;
  pen.lineWidth = 4;
  pen.lineCap = pen.lineJoin = "round";

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [
      Math.round((event.clientX - box.left) * canvas.width / box.width),
      Math.round((event.clientY - box.top) * canvas.height / box.height),
    ];
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    stroke = [place(event)];
    strokes.push(stroke);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!stroke) return;
    const [fromX, fromY] = stroke[stroke.length - 1];
    const [x, y] = place(event);
    if (Math.abs(x - fromX) + Math.abs(y - fromY) < 3 || points >= MAX_POINTS) return;
    points += 1;
    stroke.push([x, y]);
    pen.beginPath();
    pen.moveTo(fromX, fromY);
    pen.lineTo(x, y);
    pen.stroke();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => {
      stroke = null;
      field.value = JSON.stringify(strokes);
    });
  }
  canvas.parentElement.querySelector(".clear").addEventListener("click", () => {
    strokes = [];
    points = 0;
    field.value = "";
    pen.clearRect(0, 0, canvas.width, canvas.height);
  });
}
